// The kernels of a clipped step by LibTorch's operations, for operands of any type on any device: what runs
// where no kernel of our own takes the operands (f32 on a GPU), and what our own are compared with.
//
// Every matrix is measured from the gradient itself, one example at a time. Where it is formed again to be
// added, that both have the same bits is LibTorch's promise of repeatable products, not shown here. By Gram
// matrices nothing is measured: a matrix that asks for it is an InternalError.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "kernels/example_kernels.h"

namespace dpfa::device {

// `others` does what does not depend on the operands' type: squares and integers of f32 vectors and rows,
// clip factors, the release. It must outlive the result; its own element type may be any. type: f32, bf16 or
// f64; f32 products on a GPU are of f32 (no TF32) unless LibTorch is told otherwise.
std::unique_ptr<kernels::ExampleKernels> make_library_kernels(at::ScalarType type, at::Device device,
                                                              kernels::ExampleKernels& others);

}  // namespace dpfa::device
