#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "src/base/error.h"
#include "src/cli/bench_report.h"
#include "src/cli/options.h"
#include "src/train/run_setup.h"
#include "src/train/step_bench.h"

namespace dpfa::cli {
namespace {

struct StepOptions {
  train::StepBenchSpec spec;
  std::string products, only;
  int64_t repeats = 5, threads = 0;
  bool json = false;
};

void expect_among(const std::string& name, const std::string& value,
                  std::initializer_list<const char*> values) {
  if (std::find(values.begin(), values.end(), value) == values.end())
    throw ConfigError("--" + name + " " + value + ": not one of the values that --help lists");
}

// False where --help was asked for.
bool parse(const std::vector<std::string>& arguments, StepOptions& o) {
  train::StepBenchSpec& spec = o.spec;
  plan::Gpt2Shape& shape = spec.shape;
  shape = {12, 768, 0, 0, 50257, false};
  std::string release = "on";
  Options options("dpfa bench step [--layers N --width N --vocab N --batch N --sequence N ...] [--json]",
                  "Times a private step beside the same step without clipping and noise, in turn.");
  options.add("layers", &shape.layers, "layers")
      .add("width", &shape.width, "width; heads = width / 64")
      .add("vocab", &shape.vocab, "vocabulary")
      .flag("tied", &shape.tied_head, "the head is the token table")
      .add("batch", &spec.batch, "examples of the step")
      .add("slots", &spec.slots, "examples of a microbatch; 0: all")
      .add("sequence", &spec.sequence, "tokens of an example")
      .add("compute", &spec.compute, "fp32 or bf16")
      .add("numerics", &spec.numerics, "exact or fp32 (how norms are measured)")
      .add("release", &release, "on: with noise and optimizer; off: the microbatch phases alone")
      .add("repeats", &o.repeats, "timed repeats of each, after one that is not timed")
      .add("threads", &o.threads, "threads; 0: all cores")
      .add("products", &o.products,
           "of the step without privacy: whole (matrices), panels, or the faster of the two")
      .add("only", &o.only,
           "private or baseline: one of the two alone, its memory too; slots are not tested first")
      .flag("json", &o.json, "one JSON object");
  if (!options.parse(arguments)) return false;
  expect_among("compute", spec.compute, {"fp32", "bf16"});
  expect_among("numerics", spec.numerics, {"exact", "fp32"});
  expect_among("release", release, {"on", "off"});
  expect_among("only", o.only, {"", "private", "baseline"});
  expect_among("products", o.products, {"", "whole", "panels"});
  if (std::min({shape.layers, shape.width, shape.vocab, spec.batch, spec.sequence, o.repeats}) < 1 ||
      o.threads < 0 || spec.slots < 0 || spec.batch > 255)
    throw ConfigError("layers, width, vocab, batch (at most 255), sequence and repeats must be at least 1");
  shape.heads = std::max<int64_t>(1, shape.width / 64);
  if (shape.width % shape.heads != 0) throw ConfigError("--width must be a multiple of 64 (or below 128)");
  shape.positions = std::max<int64_t>(1024, spec.sequence);
  spec.release = release == "on";
  spec.tests_slots = o.only.empty();
  if (!o.products.empty())
    spec.products = o.products == "panels" ? model::BatchProducts::kPanels : model::BatchProducts::kWhole;
  return true;
}

std::vector<std::string> words_of(const StepOptions& o) {
  const train::StepBenchSpec& spec = o.spec;
  std::vector<std::string> words = {"dpfa", "bench", "step"};
  const auto add = [&](const char* name, const std::string& value) {
    words.insert(words.end(), {name, value});
  };
  add("--layers", std::to_string(spec.shape.layers));
  add("--width", std::to_string(spec.shape.width));
  add("--vocab", std::to_string(spec.shape.vocab));
  if (spec.shape.tied_head) words.push_back("--tied");
  add("--batch", std::to_string(spec.batch));
  add("--slots", std::to_string(spec.slots));
  add("--sequence", std::to_string(spec.sequence));
  add("--compute", spec.compute);
  add("--numerics", spec.numerics);
  add("--release", spec.release ? "on" : "off");
  add("--repeats", std::to_string(o.repeats));
  add("--threads", std::to_string(o.threads));
  if (!o.products.empty()) add("--products", o.products);
  if (!o.only.empty()) add("--only", o.only);
  return words;
}

// Peak resident memory of one kind of step, from a child process that runs nothing else. One step after the
// first shows the peak.
double peak_mib(StepOptions options, const std::string& only, const std::string& products) {
  options.only = only;
  options.products = products;
  options.repeats = 1;
  std::vector<std::string> words = words_of(options);
  const pid_t child = fork();
  if (child < 0) throw IoError("cannot start a child process to measure memory");
  if (child == 0) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (freopen("/dev/null", "w", stdout) == nullptr) _exit(127);
    execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  int status = 0;
  struct rusage usage {};
  wait4(child, &status, 0, &usage);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw InternalError("the child that measures memory failed");
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

std::string case_name(const train::StepBenchSpec& spec) {
  const std::string millions = std::to_string((spec.shape.parameter_count() + 500000) / 1000000);
  return "step/gpt2-" + millions + "m/B" + std::to_string(spec.batch) + "/T" + std::to_string(spec.sequence) +
         "/" + spec.compute + "/flat" + (spec.release ? "" : "/no-release");
}

int64_t threads_of(const StepOptions& o) {
  return o.threads == 0 ? static_cast<int64_t>(std::thread::hardware_concurrency()) : o.threads;
}

// One kind of step in this process.
void run_alone(const StepOptions& o) {
  train::StepBench bench(o.spec, o.only == "private", o.only == "baseline");
  const bool with_privacy = o.only == "private";
  std::vector<double> seconds, releases;
  for (int64_t k = 0; k <= o.repeats; ++k) {
    seconds.push_back(with_privacy ? bench.private_seconds() : bench.baseline_seconds());
    releases.push_back(with_privacy ? bench.release_seconds() : 0);
  }
  for (auto* times : {&seconds, &releases}) times->erase(times->begin());
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::json result = {{"case", case_name(o.spec) + "/" + o.only},
                           {"seconds", median(seconds)},
                           {"repeats", o.repeats},
                           {"all_seconds", seconds},
                           {"peak_rss_mib", static_cast<double>(usage.ru_maxrss) / 1024}};
  if (with_privacy && o.spec.release) result["release_share"] = median(releases) / median(seconds);
  if (o.json)
    print_json({result}, threads_of(o));
  else
    std::cout << result["case"].get<std::string>() << ": " << result["seconds"] << " s, "
              << result["peak_rss_mib"] << " MiB\n";
}

// Both kinds in turn. Memory first: a forked child's peak begins at what its parent holds.
BenchResult run_in_turn(const StepOptions& o) {
  const double peak = peak_mib(o, "private", "whole"), whole_peak = peak_mib(o, "baseline", "whole"),
               panels_peak = peak_mib(o, "baseline", "panels");
  train::StepBench bench(o.spec, /*with_private=*/true, /*without_privacy=*/true);
  std::vector<double> with_privacy, baseline, releases;
  for (int64_t k = 0; k <= o.repeats; ++k) {
    with_privacy.push_back(bench.private_seconds());
    releases.push_back(bench.release_seconds());
    baseline.push_back(bench.baseline_seconds());
  }
  for (auto* times : {&with_privacy, &releases, &baseline}) times->erase(times->begin());
  const bool by_panels = bench.baseline_products() == model::BatchProducts::kPanels;
  BenchResult result{case_name(o.spec), "the same engine and optimizer without clipping and noise",
                     median(with_privacy), median(baseline), o.repeats};
  result.details = {{"peak_rss_mib", peak},
                    {"baseline_peak_rss_mib", by_panels ? panels_peak : whole_peak},
                    {"baseline_products", by_panels ? "panels" : "whole"},
                    {"numerics", o.spec.numerics},
                    {"parameters", o.spec.shape.parameter_count()},
                    {"slots", bench.private_slots()},
                    {"all_seconds", with_privacy},
                    {"all_baseline_seconds", baseline}};
  if (o.spec.release) result.details["release_share"] = median(releases) / result.seconds;
  return result;
}

}  // namespace

int bench_step(const std::vector<std::string>& arguments) {
  StepOptions options;
  if (!parse(arguments, options)) return 0;
  train::keep_freed_memory();
  train::set_threads(options.threads, 1);
  if (options.only.empty())
    print_results({run_in_turn(options)}, threads_of(options), options.json);
  else
    run_alone(options);
  return 0;
}

}  // namespace dpfa::cli
