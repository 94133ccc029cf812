// Layer normalisation over the last dimension, row by row: a row's result never depends on another row.
//
// x, y, g (N, C) in the compute type; gain, shift (C) in the compute type; mean, rstd (N) f32 (f64 for f64).
#pragma once

#include <ATen/ATen.h>

namespace dpfa::kernels {

// y = (x - mean) * rstd * gain + shift, rstd = 1 / sqrt(var + epsilon).
void layer_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& shift, double epsilon,
                at::Tensor& y, at::Tensor& mean, at::Tensor& rstd);

// The gradient of the input for output gradient g; written to dx, or added to it where `accumulate`.
void layer_norm_input_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& gain,
                               const at::Tensor& mean, const at::Tensor& rstd, bool accumulate,
                               at::Tensor& dx);

}  // namespace dpfa::kernels
