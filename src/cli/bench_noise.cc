#include <ATen/ATen.h>
#include <omp.h>

#include <algorithm>

#include "kernels/noise.h"
#include "kernels/optimizer_step.h"
#include "src/base/error.h"
#include "src/base/flat_buffer.h"
#include "src/base/random/cpu_dispatch.h"
#include "src/base/random/discrete_gaussian.h"
#include "src/base/random/normal.h"
#include "src/cli/bench_report.h"
#include "src/cli/options.h"
#include "src/train/run_setup.h"

namespace dpfa::cli {
namespace {

constexpr int64_t kChunk = 1024;  // as the noise of a step (kernels/noise.cc)

// Calls fill(first, count) for chunks of `elements`, by all threads.
template <typename Fill>
void by_chunks(int64_t elements, const Fill& fill) {
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < elements; first += kChunk) fill(first, std::min(kChunk, elements - first));
}

struct Sizes {
  int64_t elements, repeats, threads;
};

// Seconds to make `elements` numbers, beside LibTorch's normals in float.
template <typename Fill>
BenchResult beside_randn(const std::string& name, const Sizes& sizes, const Fill& fill) {
  at::Tensor values = at::empty({sizes.elements});
  BenchResult result = time_in_turn(
      name, [&] { by_chunks(sizes.elements, fill); }, "torch.randn in float", [&] { values.normal_(); },
      sizes.repeats);
  result.details.update(
      {{"elements", sizes.elements},
       {"ns_per_element_and_thread",
        1e9 * result.seconds * static_cast<double>(sizes.threads) / static_cast<double>(sizes.elements)}});
  return result;
}

BenchResult normals(Generator generator, CpuPath path, const Sizes& sizes, const StreamKey& key) {
  set_cpu_path(path);
  std::string name = "noise/";
  name += to_string(generator);
  if (path != available_cpu_paths().back()) (name += '/') += to_string(path);
  const BenchResult result = beside_randn(name, sizes, [&](int64_t first, int64_t count) {
    double out[kChunk];
    fill_normals(key, 1, static_cast<uint64_t>(first), generator, {out, static_cast<size_t>(count)});
    asm volatile("" : : "r"(out) : "memory");  // the numbers count as used
  });
  set_cpu_path(available_cpu_paths().back());
  return result;
}

BenchResult discrete(double stddev, const Sizes& sizes, const StreamKey& key) {
  const DiscreteGaussian law(stddev);
  std::string name = "noise/discrete-gaussian/s";
  name += std::to_string(static_cast<int64_t>(stddev));
  return beside_randn(name, sizes, [&](int64_t first, int64_t count) {
    int64_t out[kChunk];
    law.fill(key, 1, static_cast<uint64_t>(first), {out, static_cast<size_t>(count)});
    asm volatile("" : : "r"(out) : "memory");
  });
}

// Noise made in the cache of the update that uses it, beside noise written out and read again.
BenchResult noise_and_update(const Sizes& sizes, const StreamKey& key) {
  const int64_t n = sizes.elements;
  FlatBuffer<int32_t> sum(n);
  FlatBuffer<float> m(n), v(n), weights(n), gradient(n);
  const std::vector<kernels::DecayRange> ranges = {{0, n, true}};
  const kernels::AdamwStep step{1e-6, 0.9, 0.999, 1e-8, 0.01, 1};
  const kernels::NoiseSpec spec{.stddev_in_grid_units = 0x1p20};
  const auto noise = [&](int64_t begin, std::span<float> out) {
    kernels::add_noise(key, 1, static_cast<uint64_t>(begin), spec, 0x1p-26,
                       std::span<const int32_t>(sum.span()).subspan(begin, out.size()), out);
  };
  const auto update = [&](const kernels::GradientChunk& chunk) {
    kernels::adamw_step(step, ranges, chunk, m.span(), v.span(), weights.span(), {});
  };
  BenchResult result = time_in_turn(
      "noise/one-pass-adamw",
      [&] {
        update([&](int64_t begin, std::span<float> scratch) {
          noise(begin, scratch);
          std::fill_n(sum.data() + begin, scratch.size(), 0);
          return static_cast<const float*>(scratch.data());
        });
      },
      "the same in two passes",
      [&] {
        by_chunks(n, [&](int64_t first, int64_t count) {
          noise(first, gradient.span().subspan(first, count));
          std::fill_n(sum.data() + first, count, 0);
        });
        update([&](int64_t begin, std::span<float>) { return gradient.data() + begin; });
      },
      sizes.repeats);
  result.details["elements"] = n;
  return result;
}

}  // namespace

int bench_noise(const Arguments& arguments) {
  Sizes sizes{.elements = 1 << 24, .repeats = 5, .threads = 0};
  double stddev = 0x1p20;
  bool json = false;
  Options options("dpfa bench noise [--elements N] [--json]",
                  "Times normals beside torch.randn, and noise with the optimizer beside two passes.");
  options.add("elements", &sizes.elements, "numbers made in each repeat")
      .add("stddev", &stddev, "standard deviation of the discrete Gaussian, in grid units")
      .add("repeats", &sizes.repeats, "timed repeats of each, after one that is not timed")
      .add("threads", &sizes.threads, "threads; 0: all cores")
      .flag("json", &json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  if (sizes.elements < 1 || sizes.repeats < 1 || sizes.threads < 0)
    throw ConfigError("--elements and --repeats must be at least 1, --threads at least 0");
  if (!(stddev >= DiscreteGaussian::kSmallest && stddev <= DiscreteGaussian::kLargest))
    throw ConfigError("--stddev must lie between 1 and 2^40");
  train::set_threads(sizes.threads, 1);
  sizes.threads = omp_get_max_threads();
  const StreamKey key = RootKey::from_system().stream(Purpose::kNoise);

  std::vector<BenchResult> results;
  const std::vector<CpuPath> paths = available_cpu_paths();
  for (auto path = paths.rbegin(); path != paths.rend(); ++path)
    results.push_back(normals(Generator::kChaCha20, *path, sizes, key));
  results.push_back(normals(Generator::kPhilox, paths.back(), sizes, key));
  results.push_back(discrete(stddev, sizes, key));
  results.push_back(noise_and_update(sizes, key));
  print_results(results, sizes.threads, json);
  return 0;
}

}  // namespace dpfa::cli
