#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "src/base/error.h"
#include "src/base/processor.h"
#include "src/cli/bench_account.h"
#include "src/cli/bench_report.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/train/run_setup.h"
#include "src/train/step_bench.h"

namespace dpfa::cli {
namespace {

// Peak resident memory of one kind of step, from a child process that runs nothing else.
double peak_mib(const std::vector<std::string>& words) {
  const pid_t child = fork();
  if (child < 0) throw IoError("cannot start a child process to measure memory");
  if (child == 0) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
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

int bench_step(const Arguments& arguments) {
  train::StepBenchSpec spec;
  plan::Gpt2Shape& shape = spec.shape;
  shape = {12, 768, 0, 0, 50257, false};
  int64_t repeats = 5, threads = 0;
  std::string release = "on", products, only;
  bool json = false, tied = false;
  Options options("dpfa bench step [--layers N --width N --vocab N --batch N --sequence N ...] [--json]",
                  "Times a private step beside the same step without clipping and noise, in turn.");
  options.add("layers", &shape.layers, "layers")
      .add("width", &shape.width, "width; heads = width / 64")
      .add("vocab", &shape.vocab, "vocabulary")
      .flag("tied", &tied, "the head is the token table")
      .add("batch", &spec.batch, "examples of the step")
      .add("slots", &spec.slots, "examples of a microbatch; 0: all")
      .add("sequence", &spec.sequence, "tokens of an example")
      .add("compute", &spec.compute, "fp32 or bf16")
      .add("numerics", &spec.numerics, "exact or fp32 (how norms are measured)")
      .add("release", &release, "on: with noise and optimizer; off: the microbatch phases alone")
      .add("repeats", &repeats, "timed repeats of each, after one that is not timed")
      .add("threads", &threads, "threads; 0: all cores")
      .add("products", &products,
           "of the step without privacy: whole (matrices), panels, or the faster of the two")
      .add("only", &only, "private or baseline: run one of the two (used to measure memory)")
      .flag("json", &json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  const auto among = [](const std::string& name, const std::string& value,
                        std::initializer_list<const char*> list) {
    if (std::find(list.begin(), list.end(), value) == list.end())
      throw ConfigError("--" + name + " " + value + ": not one of the values that --help lists");
  };
  among("compute", spec.compute, {"fp32", "bf16"});
  among("numerics", spec.numerics, {"exact", "fp32"});
  among("release", release, {"on", "off"});
  among("only", only, {"", "private", "baseline"});
  among("products", products, {"", "whole", "panels"});
  if (std::min({shape.layers, shape.width, shape.vocab, spec.batch, spec.sequence, repeats}) < 1 ||
      threads < 0 || spec.slots < 0 || spec.batch > 255)
    throw ConfigError("layers, width, vocab, batch (at most 255), sequence and repeats must be at least 1");
  shape.heads = std::max<int64_t>(1, shape.width / 64);
  if (shape.width % shape.heads != 0) throw ConfigError("--width must be a multiple of 64 (or below 128)");
  shape.positions = std::max<int64_t>(1024, spec.sequence);
  shape.tied_head = tied;
  spec.release = release == "on";
  spec.tests_slots = only.empty();
  if (!products.empty())
    spec.products = products == "panels" ? model::BatchProducts::kPanels : model::BatchProducts::kWhole;
  train::keep_freed_memory();
  train::set_threads(threads, 1);

  if (!only.empty()) {
    train::StepBench bench(spec, only == "private", only == "baseline");
    for (int64_t k = 0; k <= repeats; ++k)
      only == "private" ? bench.private_seconds() : bench.baseline_seconds();
    return 0;
  }
  // Memory first: a forked child's peak begins at what its parent holds. One step after the first shows the
  // peak.
  const auto child = [&](const char* which, const char* way) {
    std::vector<std::string> words = {"dpfa",
                                      "bench",
                                      "step",
                                      "--layers",
                                      std::to_string(shape.layers),
                                      "--width",
                                      std::to_string(shape.width),
                                      "--vocab",
                                      std::to_string(shape.vocab),
                                      "--batch",
                                      std::to_string(spec.batch),
                                      "--sequence",
                                      std::to_string(spec.sequence),
                                      "--compute",
                                      spec.compute,
                                      "--numerics",
                                      spec.numerics,
                                      "--release",
                                      release,
                                      "--threads",
                                      std::to_string(threads),
                                      "--repeats",
                                      "1",
                                      "--only",
                                      which,
                                      "--products",
                                      way,
                                      "--slots",
                                      std::to_string(spec.slots)};
    if (tied) words.push_back("--tied");
    return peak_mib(words);
  };
  const double peak = child("private", "whole"), whole_peak = child("baseline", "whole"),
               panels_peak = child("baseline", "panels");

  std::vector<double> with_privacy, baseline, releases;
  int64_t slots = 0;
  double baseline_peak = whole_peak;
  {
    train::StepBench bench(spec, /*with_private=*/true, /*without_privacy=*/true);
    slots = bench.private_slots();
    const bool by_panels = bench.baseline_products() == model::BatchProducts::kPanels;
    products = by_panels ? "panels" : "whole";
    if (by_panels) baseline_peak = panels_peak;
    for (int64_t k = 0; k <= repeats; ++k) {
      with_privacy.push_back(bench.private_seconds());
      releases.push_back(bench.release_seconds());
      baseline.push_back(bench.baseline_seconds());
    }
  }
  with_privacy.erase(with_privacy.begin());
  releases.erase(releases.begin());
  baseline.erase(baseline.begin());

  const std::string size = std::to_string((shape.parameter_count() + 500000) / 1000000);
  const std::string name = "step/gpt2-" + size + "m/B" + std::to_string(spec.batch) + "/T" +
                           std::to_string(spec.sequence) + "/" + spec.compute + "/flat" +
                           (spec.release ? "" : "/no-release");
  const double seconds = median(with_privacy), other = median(baseline),
               release_share = median(releases) / seconds;
  if (json) {
    nlohmann::json result = {{"case", name},
                             {"seconds", seconds},
                             {"baseline", "the same engine and optimizer without clipping and noise"},
                             {"baseline_seconds", other},
                             {"ratio", seconds / other},
                             {"repeats", repeats},
                             {"peak_rss_mib", peak},
                             {"baseline_peak_rss_mib", baseline_peak},
                             {"numerics", spec.numerics},
                             {"parameters", shape.parameter_count()},
                             {"all_seconds", with_privacy},
                             {"all_baseline_seconds", baseline}};
    if (spec.release) result["release_share"] = release_share;
    result["slots"] = slots;
    result["baseline_products"] = products;
    std::cout << nlohmann::json{{"machine",
                                 {{"cpu", processor_name()},
                                  {"threads", threads == 0 ? std::thread::hardware_concurrency()
                                                           : static_cast<unsigned>(threads)}}},
                                {"results", {result}}}
                     .dump()
              << '\n';
  } else {
    std::cout << name << " on " << processor_name() << "\n"
              << std::fixed << std::setprecision(3) << "  private      " << seconds << " s, "
              << std::setprecision(0) << peak << " MiB\n";
    if (spec.release)
      std::cout << std::setprecision(1) << "  of it noise and optimizer: " << 100 * release_share << " %\n";
    std::cout << std::setprecision(3) << "  not private  " << other << " s, " << std::setprecision(0)
              << baseline_peak << " MiB, products: " << products << "\n"
              << std::setprecision(3) << "  ratio        " << seconds / other << " (medians of " << repeats
              << " in turn)\n";
  }
  return 0;
}

}  // namespace

int run_bench(const Arguments& arguments) {
  const std::string usage =
      "dpfa bench step|norms|noise|comm|account [options]: times a training step, gradient norms, noise, "
      "sums over "
      "ranks or the accountant beside a baseline";
  if (!arguments.empty() && (arguments[0] == "--help" || arguments[0] == "help")) {
    std::cout << usage << "\n";
    return 0;
  }
  if (!arguments.empty() && arguments[0] == "account")
    return bench_account({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "norms")
    return bench_norms({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "comm")
    return bench_comm({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "noise")
    return bench_noise({arguments.begin() + 1, arguments.end()});
  if (arguments.empty() || arguments[0] != "step")
    throw ConfigError((arguments.empty() ? "which benchmark?" : "unknown benchmark '" + arguments[0] + "'") +
                      std::string(": ") + usage);
  return bench_step({arguments.begin() + 1, arguments.end()});
}

}  // namespace dpfa::cli
