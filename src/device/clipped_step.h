// A private training step on one device: forward and backward, per-example norms, clipped integer
// contributions, and the release fused with AdamW, from the kernels of kernels/example_kernels.h.
//
// Guarantee (add or remove one record), as numerics = fp32 of docs/privacy_model.md has it: each example's
// contribution to the integer sum has L2 norm at most max_grad_norm x (1 + kernels::kGramSlack), before it is
// rounded to the grid, for every input; sums are of integers, so no rounding depends on other examples. A
// Gram norm stands for a matrix only where its certified upper bound is close; otherwise the norm is measured
// from the product that is added. An example without targets, with a loss or a norm that is not finite is
// skipped, not multiplied by 0. That an example's own numbers do not depend on its neighbours rests on the
// operations of LibTorch (gpt2.h) and is not shown here, so no configuration reaches this class: it is
// measured and tested, not trained with.
//
// Where the model recomputes its layers, no layer's records outlive it: one backward pass measures, a second
// measures again and adds. Both must give every part of a contributing example the same squared norm, bit for
// bit, which takes operations that repeat theirs (fused_attention.h): otherwise accumulate() throws
// InternalError, and the sum is released no more.
//
// The sum cannot be read: release() alone consumes it, once per draw, and leaves it zero.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>

#include "kernels/example_kernels.h"
#include "src/device/gpt2.h"
#include "src/device/method_choice.h"

namespace dpfa::test {
struct ClippedStepAccess;  // tests/device/step_access.h
}

namespace dpfa::device {

// All of a model on its device, (P) each.
struct Parameters {
  Parameters(std::span<const float> initial, at::ScalarType compute, at::Device device);
  at::Tensor weights, m, v;  // f32
  at::Tensor compute;        // in the compute type; the weights themselves where that is f32
};

// The numbers of a plan that a step needs.
struct StepNumbers {
  double max_grad_norm;
  int grid_exponent;  // one unit of the sum is 2^grid_exponent; at least max_grad_norm x 2^-23
  kernels::NoiseSpec noise;
  double divisor;  // public
  // Of matrices. All give the same up to the certified slack and, where gradients are kept, the rounding of
  // what is kept; chosen once for each number of examples and tokens of a microbatch.
  MethodSettings methods = {};
  kernels::ClipRule clip_rule = kernels::ClipRule::kFlat;
};

enum class Phase { kForwardBackward, kNorms, kProducts, kRelease };

class ClippedStep {
 public:
  // All but the numbers must outlive the step; `model` is bound to `parameters`. Throws InternalError where
  // the kernels' operands are of another type than the model computes in.
  ClippedStep(const StepNumbers& numbers, Gpt2& model, kernels::ExampleKernels& kernels,
              Parameters& parameters);

  // Adds the clipped gradients of a microbatch of at most 255 examples.
  void accumulate(const model::Batch& batch);
  // Noise, division and AdamW, and the weights of the next step. `draw` grows from call to call: each has
  // noise of its own. A sum of nothing is released like any other.
  void release(const StreamKey& key, uint64_t draw, const kernels::AdamwStep& step);
  // Called when a phase's work has been put on the device's queue; timing only.
  void watch(std::function<void(Phase)> on_phase) { on_phase_ = std::move(on_phase); }

 private:
  friend struct test::ClippedStepAccess;
  class Pass;
  using Methods = std::map<int64_t, kernels::NormMethod>;  // of each matrix, by its offset

  void make_room(int64_t contributions);
  const Methods& methods_for(const model::Batch& batch);
  at::Tensor settle(const at::Tensor& squares, const at::Tensor& selected);
  void done(Phase phase) const {
    if (on_phase_) on_phase_(phase);
  }

  StepNumbers numbers_;
  Gpt2& model_;
  kernels::ExampleKernels& kernels_;
  Parameters& parameters_;
  std::function<void(Phase)> on_phase_;
  std::map<std::pair<int64_t, int64_t>, Methods> methods_;  // by examples and tokens of a microbatch
  at::Tensor sum_;                                          // (P) i32
  at::Tensor wide_;                                         // (P) i64; undefined until the first flush
  at::Tensor squares_, factors_;  // (B) f64 of the last microbatch: private, for tests
  int64_t since_flush_ = 0;       // contributions in sum_
  int64_t microbatches_ = 0;      // of this draw; read by planted bugs only
  int64_t last_draw_ = -1;
};

// The operands' type of kernels for a model that computes in f32, bf16 or f64.
kernels::Element element_of(at::ScalarType compute);

}  // namespace dpfa::device
