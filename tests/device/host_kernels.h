// The kernels of a clipped step on host memory, by loops in double: what tests of the engine's wiring run,
// and what the GPU's are compared with.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/example_kernels.h"

namespace dpfa::test {

// How often each call was made, and which matrices were measured by which way.
struct KernelCalls {
  std::map<std::string, int> counts;
  int64_t gram = 0, direct = 0, kept = 0;  // pairs of a matrix and an example
  std::string left_out;                    // the measurement that does not run: its squares are not written
  double drift = 1;  // every measurement of matrices gives so much more than the one before
};

// `calls` may be null.
std::unique_ptr<kernels::ExampleKernels> make_host_kernels(kernels::Element element,
                                                           std::span<const kernels::DecayRange> decay,
                                                           KernelCalls* calls = nullptr);

}  // namespace dpfa::test
