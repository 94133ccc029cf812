// The CUDA runtime of a machine that interprets PTX: what a program links instead of cudart (runtime.cc has
// its calls).
//
// Work is done when it is asked for, so streams and events keep no order of their own. The program's fat
// binaries must hold PTX, not compressed (nvcc: code=compute_XX and -compress-mode=none). A kernel in which
// something is wrong gives cudaErrorIllegalAddress at the next call; after any report or fault the process
// ends with kWrongExit, whatever the program itself found.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/ptx/machine.h"

namespace dpfa::ptx {

inline constexpr int kWrongExit = 86;

struct Statistics {
  int64_t launches = 0, blocks = 0;
  double seconds = 0;
  std::vector<uint64_t> hits;
};
struct Function {
  int binary = 0;
  std::string name;
  size_t most_dynamic = 0;  // as cudaFuncSetAttribute set it
};

struct Runtime {
  std::mutex mutex;
  std::vector<std::vector<std::unique_ptr<Module>>> binaries;  // of each, its PTX for every architecture
  std::map<const void*, Function> functions;
  std::map<std::string, Statistics> statistics;
  cudaError_t sticky = cudaSuccess, last = cudaSuccess;
  struct Configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
  };
  std::vector<Configuration> pushed;
  int64_t faults = 0;
};
Runtime& runtime();

// `result`, or what a kernel left behind; remembered for cudaGetLastError.
cudaError_t answer(cudaError_t result);

// The PTX modules of a fat binary, for every architecture that it holds. Throws std::runtime_error.
std::vector<std::unique_ptr<Module>> modules_of(const void* wrapper);
// The code that a driver would take: of the highest architecture that the device has; sm_90a on 9.0 alone.
// Null: none.
const Module* module_for_device(const std::vector<std::unique_ptr<Module>>& modules);

// Bytes of shared memory that a block may ask for.
size_t shared_limit();

cudaError_t launch_kernel(const void* key, dim3 grid, dim3 block, void** arguments, size_t shared);

// Kernels, instructions and stretches that did not run, on the error stream.
void print_statistics();

}  // namespace dpfa::ptx
