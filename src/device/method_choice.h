// Which way measures the norms of each matrix of a step on a device (kernels/norm_method.h), by the times of
// that device's kernels.
//
// Nothing private enters: shapes of the model and of microbatches, the device, and times of made-up operands.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/example_kernels.h"
#include "kernels/norm_method.h"

namespace dpfa::device {

// Without kMeasured: for every matrix.
enum class NormChoice { kMeasured, kGram, kDirect, kMaterialise };

struct MethodSettings {
  NormChoice norms = NormChoice::kMeasured;
  int measurements = 1;             // of each norm; 2 where layers are recomputed (clipped_step.h)
  int64_t budget_bytes = 0;         // for kept gradients; 0: those of one example
  std::filesystem::path file = {};  // of times; empty: nothing is kept between runs
  std::function<void(const std::string&)> log = {};  // takes a line for each choice
};

// The method of each matrix, for microbatches of `examples` examples. A gradient is kept in the operands'
// type. Times are kept under the name of the kernels, shape and type, and the number of measurements.
std::vector<kernels::NormMethod> choose_methods(std::span<const kernels::MatrixShape> shapes,
                                                int64_t examples, const MethodSettings& settings,
                                                kernels::ExampleKernels& kernels, at::Device device);

// Seconds per example that the kernels take to measure the norms of such a matrix so often by `method` and to
// add its gradients: the least of several runs after one that touches the memory, on as many made-up examples
// as 256 MiB of kept gradients are, 1 to 32. Not Gram norms of kernels that have none. What was set in the
// kernels before is set no more.
double method_seconds(kernels::ExampleKernels& kernels, at::Device device, const kernels::MatrixShape& shape,
                      kernels::NormMethod method, int measurements = 1);

}  // namespace dpfa::device
