// Softmax cross-entropy over rows of logits on any device, in place: logits become their own gradient.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

namespace dpfa::device {

// logits (N, V) at any row stride, columns contiguous; targets (N), negative where a row has none; weights
// (N). Returns the losses (N) f64 on the device: weights[i] x (logsumexp - logit of the target), 0 where row
// i has no target. With `gradient` row i of the logits becomes weights[i] x (softmax - onehot(target)), exact
// zeros where it has no target. Softmax and losses are formed in f32 (f64 for f64), in parts of the rows, so
// that no second (N, V) exists. A row with a NaN or a logit of +infinity gets a loss that is not finite;
// other rows are untouched by it.
at::Tensor cross_entropy(at::Tensor& logits, std::span<const int64_t> targets,
                         std::span<const double> weights, bool gradient);

}  // namespace dpfa::device
