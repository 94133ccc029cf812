// GELU in its tanh form, x / (1 + exp(-z)) with z = 2 (2 / pi)^(1/2) (x + 0.044715 x^3), row by row: unlike
// LibTorch's, an element's bits do not depend on where the row lies or on the number of threads.
//
// x, y, g, dx (N, C) contiguous in the compute type.
#pragma once

#include <ATen/ATen.h>

namespace dpfa::kernels {

// y = gelu(x)
void gelu(const at::Tensor& x, at::Tensor& y);

// dx = g * gelu'(x); dx may be x
void gelu_gradient(const at::Tensor& g, const at::Tensor& x, at::Tensor& dx);

}  // namespace dpfa::kernels
