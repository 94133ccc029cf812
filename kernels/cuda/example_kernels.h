// The kernels of this folder as the table that a clipped step asks for: bfloat16 operands, one stream.
//
// What is on the device stays there between microbatches: tables of examples and matrices are made anew only
// where offsets, ids, pointers or shapes differ from the ones before.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/example_kernels.h"

namespace dpfa::kernels::cuda {

// decay: of `parameters` parameters, as optimizer_step.h wants them. Throws as device.h does.
std::unique_ptr<ExampleKernels> make_example_kernels(std::span<const DecayRange> decay, int64_t parameters,
                                                     cudaStream_t stream);

}  // namespace dpfa::kernels::cuda
