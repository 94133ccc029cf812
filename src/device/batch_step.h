// The same step without privacy: the gradient of a batch and LibTorch's fused AdamW. What the private step is
// measured against; its gradient is no NoisyGradient and its weights are stamped nowhere, so no run uses it.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "kernels/optimizer_step.h"
#include "src/device/clipped_step.h"
#include "src/device/gpt2.h"

namespace dpfa::device {

class BatchStep {
 public:
  // Both must outlive the step; `model` is bound to `parameters`.
  BatchStep(Gpt2& model, Parameters& parameters);

  // Adds the gradient of the sum of the microbatch's losses; the first since an update overwrites. A product
  // over all rows is formed in the compute type and kept in f32.
  void accumulate(const model::Batch& batch);
  // AdamW as optimizer_step.h has it, with the gradient divided by `divisor`.
  void update(const kernels::AdamwStep& step, double divisor);

  const at::Tensor& gradient() const { return gradient_; }  // (P) f32

 private:
  Gpt2& model_;
  Parameters& parameters_;
  std::vector<kernels::DecayRange> decay_;
  at::Tensor gradient_;
  bool is_empty_ = true;
};

}  // namespace dpfa::device
