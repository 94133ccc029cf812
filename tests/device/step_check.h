// A step under test beside one that is trusted, on the same made-up records: what `gpu_bench step --check`
// runs on a GPU, and what a test drives with both on the CPU. Nothing here is private: weights and tokens are
// made up.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/example_kernels.h"
#include "src/device/clipped_step.h"

namespace dpfa::test {

// Where and how one of the two runs.
struct StepSide {
  // The kernels of a step; the last ones are the step's, the others serve them.
  using Kernels = std::vector<std::unique_ptr<kernels::ExampleKernels>>;
  using MakeKernels = std::function<Kernels(at::ScalarType compute,
                                            std::span<const kernels::DecayRange> decay, int64_t parameters)>;

  std::string name;
  at::Device device;
  MakeKernels make_kernels;
  device::NormChoice norms = device::NormChoice::kDirect;
  bool recompute = false;
  std::function<void(device::StepNumbers&)> alter = {};  // for tests of the check itself
  std::optional<at::ScalarType> compute = {};            // where it is not that of the pair
};

// How far both are apart, as shares: of an example's norm, of its factor (absolutely), of the norms of all
// contributions for the sum. Rounding to the grid comes on top.
struct StepDistance {
  double norm, factor, sum;
};

// How far they may be apart. step_check_test.cc measures on the CPU what is said here of types.
//
// bf16 on two devices, each with its own order of sums and places where it rounds: twice what bf16 and f32
// are apart on one.
inline constexpr StepDistance kBf16AcrossDevices = {0x1p-6, 0x1p-7, 0x1p-5};
// f32 on two devices: many times twice what f32 and f64 are apart on one, for functions that a device
// approximates; less than an eighth of what bf16 and f32 are apart, which is what TF32 with its three bits
// more would give: it must not pass for f32.
inline constexpr StepDistance kF32AcrossDevices = {0x1p-13, 0x1p-14, 0x1p-13};
// bf16 on one device, the same activations: a Gram norm is at most 2^-8 above the norm that it stands for
// (twice its certified error of 2^-8 of the square), and numbers that are rounded to bf16 on their way into a
// sum are off by 2^-9 each, on one side or on both. So a norm and a factor are off by 2^-7 at most and a sum
// by 3 x 2^-8; the rest is for products that LibTorch splits and joins in bf16.
inline constexpr StepDistance kBf16OnOneDevice = {0x1p-6, 0x1p-6, 0x1p-6};

struct StepPair {
  at::ScalarType compute;
  bool tied;
  StepSide tested, trusted;
  StepDistance tolerance;
};

struct StepReport {
  std::vector<std::string> compared, differences;  // a line each
};

// Adds to the report, for microbatches of records of 70, 1, 33 and 64 tokens (one of them a single token
// again and again), one without targets and an empty slot, with all rows and with rows up to the last target
// alone:
//   - norms, factors and integer sums of both, within the tolerance; exactly nothing where a slot has no
//     target;
//   - the release of the same sum by both: the same bits of moments and weights;
//   - of the step under test: an example's norm and integers alone in the first slot and among others in
//     another, with all rows: the same bits.
void compare_steps(const StepPair& pair, StepReport& report);

// The larger distances of both kinds of rows; the pair's tolerance is not asked for.
StepDistance distance_between(const StepPair& pair);

}  // namespace dpfa::test
