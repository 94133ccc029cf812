// What tests read of a step, and nobody else: private numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "src/device/clipped_step.h"

namespace dpfa::test {

struct ClippedStepAccess {
  static std::vector<int64_t> sum(const device::ClippedStep& step) {
    at::Tensor all = step.sum_.to(at::kCPU, at::kLong);
    if (step.wide_.defined()) all.add_(step.wide_.to(at::kCPU));
    return {all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel()};
  }
  // Gives `to` the sum of `from`, of which no part was flushed.
  static void copy_sum(const device::ClippedStep& from, device::ClippedStep& to) { to.sum_.copy_(from.sum_); }
  static void clear_sum(device::ClippedStep& step) { step.sum_.zero_(); }
  // Of slot b of the last microbatch.
  static double norm(const device::ClippedStep& step, int64_t b) {
    return std::sqrt(step.squares_[b].item<double>());
  }
  static double factor(const device::ClippedStep& step, int64_t b) { return step.factors_[b].item<double>(); }
};

}  // namespace dpfa::test
