// SGD and AdamW over flat fp32 buffers: one pass, all OpenMP threads, the same bits for any thread count.
// Post-processing only: nothing here touches private data or randomness.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace dpfa::kernels {

// A maximal run of parameters [begin, end) with one weight-decay setting (biases and norms take none).
struct DecayRange {
  int64_t begin;
  int64_t end;
  bool decays;
};

// Throws InternalError where the ranges do not follow each other from 0 to `count` without gaps.
void check_decay_ranges(std::span<const DecayRange> ranges, int64_t count);

// The gradient of elements [begin, begin + scratch.size()): a view of it, or `scratch` filled with it. Asked
// once for every element of a step, by several threads for disjoint chunks; so a gradient can be made chunk
// by chunk in the cache of the update that uses it up.
using GradientChunk = std::function<const float*(int64_t begin, std::span<float> scratch)>;

struct AdamwStep {
  double learning_rate;
  double beta1, beta2, epsilon;
  double weight_decay;  // decoupled (Loshchilov and Hutter 2019)
  int64_t step;         // 1-based, for the bias correction
};
// m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr (wd w + mhat / (sqrt(vhat) + eps)). All spans and the
// gradient (P) f32. Where `compute` is not empty it receives w rounded to bfloat16 (raw bits).
void adamw_step(const AdamwStep& step, std::span<const DecayRange> ranges, const GradientChunk& gradient,
                std::span<float> m, std::span<float> v, std::span<float> weights,
                std::span<uint16_t> compute);

struct SgdStep {
  double learning_rate;
  double momentum;
  double weight_decay;  // decoupled, as above
};
// v = momentum v + g; w -= lr (wd w + v). `v` may be empty where momentum is 0.
void sgd_step(const SgdStep& step, std::span<const DecayRange> ranges, const GradientChunk& gradient,
              std::span<float> v, std::span<float> weights, std::span<uint16_t> compute);

}  // namespace dpfa::kernels
