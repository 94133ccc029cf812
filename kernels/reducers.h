// Per-example reductions over tokens: the gradients of bias and LayerNorm vectors.
//
// x, g (N, n) in the compute type; example b owns rows [offsets[b], offsets[b + 1]). Results (B, n) in f32
// (f64 for f64), summed over the rows of one example in order, in double, so an example's result does not
// depend on the others or on the thread count; 0 for an example without rows.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <utility>

namespace dpfa::kernels {

// sum_t g_t
at::Tensor bias_gradient(const at::Tensor& g, std::span<const int64_t> offsets);

// {sum_t g_t * (x_t - mean_t) * rstd_t, sum_t g_t}; mean, rstd (N) as native_layer_norm returns them.
std::pair<at::Tensor, at::Tensor> layer_norm_gradient(const at::Tensor& g, const at::Tensor& x,
                                                      const at::Tensor& mean, const at::Tensor& rstd,
                                                      std::span<const int64_t> offsets);

// sum_t g_t * x_t * rstd_t, the gain of a root-mean-square normalisation (no mean, no shift); rstd (N).
at::Tensor rms_norm_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& rstd,
                             std::span<const int64_t> offsets);

}  // namespace dpfa::kernels
