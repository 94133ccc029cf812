// Softmax cross-entropy over rows, in place: logits become their own gradient.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

namespace dpfa::kernels {

// logits (N, V) in the compute type; targets (N), kIgnored (-100) where a row has none; weights (N).
// On return row i holds weights[i] x (softmax - onehot(target)), zeros where the row is ignored, and
// losses[i] = weights[i] x (logsumexp - logit of the target), 0 where ignored.
// A row with a NaN, a logit of +infinity or one of -infinity at its target gets a loss that is not finite;
// other rows are untouched by it. every_row: an ignored row takes the work of any other, and what that gives
// is dropped.
void cross_entropy_in_place(at::Tensor& logits, std::span<const int64_t> targets,
                            std::span<const double> weights, std::span<double> losses,
                            bool every_row = false);

// The losses alone, for evaluation; logits are left as they are.
void cross_entropy(const at::Tensor& logits, std::span<const int64_t> targets,
                   std::span<const double> weights, std::span<double> losses);

}  // namespace dpfa::kernels
