#include "src/base/cuda/device.h"

namespace dpfa::cuda {

void check(cudaError_t result, const std::string& what) {
  if (result == cudaSuccess) return;
  const std::string text = what + ": " + cudaGetErrorString(result) + " (" + cudaGetErrorName(result) + ")";
  switch (result) {
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      throw Unsupported(
          text + "; there is no usable NVIDIA GPU here: run on the CPU, or install a driver for CUDA 13");
    case cudaErrorNoKernelImageForDevice:
      throw Unsupported(text +
                        "; the kernels are built for compute capability 8.0, 9.0 and 10.0: add this GPU's to "
                        "CMAKE_CUDA_ARCHITECTURES and build again");
    case cudaErrorMemoryAllocation:
      throw ConfigError(text + "; the GPU's memory is full: lower the microbatch size");
    default:
      throw InternalError(text);
  }
}

int compute_capability() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "look for a GPU");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "ask for the GPU's capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
        "ask for the GPU's capability");
  const int capability = 10 * major + minor;
  if (capability < 80)
    throw Unsupported("this GPU has compute capability " + std::to_string(major) + "." +
                      std::to_string(minor) +
                      "; the kernels need 8.0 or more: run on the CPU or on a newer GPU");
  return capability;
}

int device_count() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaErrorNoDevice || result == cudaErrorInsufficientDriver) {
    cudaGetLastError();  // the runtime keeps it for the next call otherwise
    return 0;
  }
  check(result, "look for GPUs");
  return count;
}

void allow_shared_memory(const void* kernel, int64_t bytes, const char* name) {
  int device = 0, limit = 0;
  check(cudaGetDevice(&device), "look-up of the GPU");
  check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "look-up of the GPU's shared memory");
  if (bytes > limit)
    throw Unsupported("the kernel " + std::string(name) + " needs " + std::to_string(bytes) +
                      " bytes of shared memory in a block and this GPU has " + std::to_string(limit) +
                      ": the kernels are for GPUs of data centres (A100, H100, H200, B200)");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of " + std::to_string(bytes) + " bytes for the kernel " + name);
}

}  // namespace dpfa::cuda
