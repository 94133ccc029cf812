// Per-example reductions over tokens: the gradients of bias and LayerNorm vectors.
//
// x, g (B*T, n) in the compute type; results (B, n) in f32 (f64 for f64), summed over the T rows of one
// example in order, in double, so an example's result does not depend on the others or on the thread count.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <utility>

namespace dpfa::kernels {

// sum_t g_t
at::Tensor bias_gradient(const at::Tensor& g, int64_t examples);

// {sum_t g_t * (x_t - mean_t) * rstd_t, sum_t g_t}; mean, rstd (B*T, 1) as native_layer_norm returns them.
std::pair<at::Tensor, at::Tensor> layer_norm_gradient(const at::Tensor& g, const at::Tensor& x,
                                                      const at::Tensor& mean, const at::Tensor& rstd,
                                                      int64_t examples);

}  // namespace dpfa::kernels
