// A step under test beside one that is trusted, on the same made-up records: what `gpu_bench step --check`
// runs on a GPU, and what a test drives with both on the CPU. Nothing here is private: weights and tokens are
// made up.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
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
};

// How far both may be apart, as shares: of an example's norm, of its factor (absolutely), of the norms of all
// contributions for the sum. Rounding to the grid comes on top.
struct StepTolerance {
  double norm, factor, sum;
};

struct StepPair {
  at::ScalarType compute;
  bool tied;
  StepSide tested, trusted;
  StepTolerance tolerance;
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

}  // namespace dpfa::test
