#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <omp.h>

#include <algorithm>
#include <map>

#include "kernels/compute_type.h"
#include "kernels/gram_norm.h"
#include "kernels/norm_route.h"
#include "src/base/error.h"
#include "src/cli/bench_report.h"
#include "src/cli/options.h"
#include "src/train/run_setup.h"
#include "src/train/step_bench.h"

namespace dpfa::cli {
namespace {

using kernels::MatrixShape;
using kernels::NormMethod;

struct Spec {
  train::StepBenchSpec step;
  int64_t repeats = 5;
};

// The matrices of a GPT-2 with an untied head, and how many there are of each.
std::vector<std::pair<MatrixShape, int64_t>> matrices_of(const Spec& spec) {
  const plan::Gpt2Shape& s = spec.step.shape;
  const int64_t t = spec.step.sequence, c = s.width;
  const at::ScalarType compute = spec.step.compute == "bf16" ? at::kBFloat16 : at::kFloat;
  return {{{t, c, 3 * c, false, compute}, s.layers},
          {{t, c, c, false, compute}, s.layers},
          {{t, c, 4 * c, false, compute}, s.layers},
          {{t, 4 * c, c, false, compute}, s.layers},
          {{t, c, s.vocab, true, compute}, 1}};
}

// The norm of one example by symmetric tiles, beside two full Gram matrices.
BenchResult symmetric_tiles(const std::string& name, const MatrixShape& shape, int64_t repeats) {
  kernels::GradientRecords records;
  records.offsets = {0, shape.tokens};
  const at::Tensor x = at::randn({shape.tokens, shape.inputs}).to(shape.compute);
  const at::Tensor g = at::randn({shape.tokens, shape.outputs}).to(shape.compute);
  records.linears.push_back({x, g, 0, shape.output_major});
  std::vector<double> slots(kernels::gram_slots(shape.tokens));
  std::vector<kernels::GramTokens> strips(kernels::gram_strips(shape.tokens));
  at::Tensor xx = at::empty({shape.tokens, shape.tokens}, x.options()), gg = at::empty_like(xx);
  volatile double used = 0;
  return time_in_turn(
      name,
      [&] {
        kernels::with_compute_type(shape.compute, [&]<typename T>() {
#pragma omp parallel for schedule(dynamic, 1)
          for (int64_t strip = 0; strip < kernels::gram_strips(shape.tokens); ++strip) {
            c10::InferenceMode guard;
            kernels::gram_strip<T>(records, 0, 0, strip, {}, slots, strips);
          }
        });
        used = kernels::ordered_sum(slots.data(), static_cast<int64_t>(slots.size()));
      },
      "two full Gram matrices",
      [&] {
        at::mm_out(xx, x, x.t());
        at::mm_out(gg, g, g.t());
        used = at::dot(xx.view({-1}), gg.view({-1})).item<double>();
      },
      repeats);
}

// Forward, backward and clipping of a batch: the faster way to measure norms, beside one example at a time.
BenchResult short_sequences(const Spec& spec, const std::string& name) {
  train::StepBenchSpec one = spec.step;
  one.slots = 1;
  one.numerics = "exact";
  train::StepBench alone(one, /*with_private=*/true, /*without_privacy=*/false);
  BenchResult best;
  for (const std::string numerics : {"exact", "fp32"}) {
    train::StepBenchSpec together = spec.step;
    together.numerics = numerics;
    train::StepBench bench(together, true, false);
    const BenchResult result = time_in_turn(
        name, [&] { bench.private_seconds(); }, "one example at a time", [&] { alone.private_seconds(); },
        spec.repeats);
    nlohmann::json seconds = best.details.value("seconds_by_numerics", nlohmann::json::object());
    if (best.repeats == 0 ||
        result.seconds / result.baseline_seconds < best.seconds / best.baseline_seconds) {
      best = result;
      best.details["numerics"] = numerics;
    }
    seconds[numerics] = result.seconds;
    best.details["seconds_by_numerics"] = seconds;
  }
  return best;
}

std::vector<BenchResult> measure(const Spec& spec) {
  const plan::Gpt2Shape& shape = spec.step.shape;
  const std::string model = "gpt2-" + std::to_string((shape.parameter_count() + 500000) / 1000000) + "m";
  const std::string length = "T" + std::to_string(spec.step.sequence) + "/" + spec.step.compute;
  std::vector<BenchResult> results = {{"norms/" + model + "/" + length, "two full Gram matrices"}};
  for (const auto& [matrix, count] : matrices_of(spec)) {
    results.push_back(symmetric_tiles("norms/" + matrix.key(), matrix, spec.repeats));
    results.back().details["matrices"] = count;
    results[0].seconds += static_cast<double>(count) * results.back().seconds;
    results[0].baseline_seconds += static_cast<double>(count) * results.back().baseline_seconds;
    results[0].repeats = spec.repeats;
  }
  for (auto [matrix, count] : matrices_of(spec)) {
    matrix.examples = matrix.kept = 2 * omp_get_max_threads();
    std::map<NormMethod, double> seconds;
    for (const NormMethod method : {NormMethod::kGram, NormMethod::kDirect, NormMethod::kMaterialise})
      seconds[method] = kernels::method_seconds(matrix, method);
    for (const auto& [method, value] : seconds)
      results.push_back({"norms/" + matrix.key() + "/" + kernels::to_string(method),
                         "direct, per example with the clipped sum", value, seconds[NormMethod::kDirect], 2});
  }
  if (spec.step.batch > 1)
    results.push_back(short_sequences(
        spec, "norms/" + model + "/B" + std::to_string(spec.step.batch) + "/" + length + "/route"));
  return results;
}

}  // namespace

int bench_norms(const Arguments& arguments) {
  Spec spec;
  plan::Gpt2Shape& shape = spec.step.shape;
  shape = {12, 768, 0, 0, 50257, false};
  spec.step.batch = 1;
  spec.step.sequence = 1024;
  spec.step.release = false;
  int64_t threads = 0;
  bool json = false;
  Options options(
      "dpfa bench norms [--sequence N] [--batch N] [--json]",
      "Times the ways to measure gradient norms beside two full Gram matrices, and with --batch the "
      "faster way beside one example at a time.");
  options.add("layers", &shape.layers, "layers")
      .add("width", &shape.width, "width; heads = width / 64")
      .add("vocab", &shape.vocab, "vocabulary")
      .add("batch", &spec.step.batch, "examples of a pass; 1: norms alone")
      .add("sequence", &spec.step.sequence, "tokens of an example")
      .add("compute", &spec.step.compute, "fp32 or bf16")
      .add("repeats", &spec.repeats, "timed repeats of each, after one that is not timed")
      .add("threads", &threads, "threads; 0: all cores")
      .flag("json", &json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  if (spec.step.compute != "fp32" && spec.step.compute != "bf16")
    throw ConfigError("--compute " + spec.step.compute + ": fp32 or bf16");
  if (std::min({shape.layers, shape.width, shape.vocab, spec.step.batch, spec.step.sequence, spec.repeats}) <
          1 ||
      threads < 0 || spec.step.batch > 255)
    throw ConfigError("layers, width, vocab, batch (at most 255), sequence and repeats must be at least 1");
  shape.heads = std::max<int64_t>(1, shape.width / 64);
  if (shape.width % shape.heads != 0) throw ConfigError("--width must be a multiple of 64 (or below 128)");
  shape.positions = std::max<int64_t>(1024, spec.step.sequence);
  train::keep_freed_memory();
  train::set_threads(threads, 1);
  print_results(measure(spec), omp_get_max_threads(), json);
  return 0;
}

}  // namespace dpfa::cli
