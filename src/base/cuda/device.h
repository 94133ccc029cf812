// What every CUDA source here needs of the runtime: errors as exceptions, memory that frees itself, launch
// checks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace dpfa::cuda {

// Throws for every result but cudaSuccess: Unsupported where there is no usable GPU or no code for it,
// ConfigError where its memory is full, InternalError otherwise. `what` says what was tried.
void check(cudaError_t result, const std::string& what);
// After a kernel launch: the launch itself was accepted. Errors inside the kernel come with the next
// synchronisation.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), std::string("start of the kernel ") + kernel);
}

// Compute capability of the current device, 10 x major + minor. Throws Unsupported for a device below 80:
// there is no code for it.
int compute_capability();
// Number of usable GPUs; 0 (not an error) where there is no driver or no GPU.
int device_count();
// Lets a kernel use `bytes` of shared memory per block. Throws Unsupported where the device has less.
void allow_shared_memory(const void* kernel, int64_t bytes, const char* name);

// Device memory of `size` elements, contents undefined. All calls may throw as check() does.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(int64_t size) : size_(size) {
    if (size > 0) check(cudaMalloc(&data_, bytes()), "allocation of " + std::to_string(bytes()) + " bytes");
  }
  explicit DeviceArray(std::span<const T> values) : DeviceArray(static_cast<int64_t>(values.size())) {
    if (size_ == 0) return;
    check(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "copy to the device");
    // From pageable memory the call may return before the copy arrives, and streams that do not wait for the
    // default one would read what was there before.
    check(cudaStreamSynchronize(nullptr), "copy to the device");
  }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }
  // Every byte becomes `byte`; 0xFF makes floats and doubles NaN.
  void fill_bytes(int byte, cudaStream_t stream) {
    if (size_ > 0) check(cudaMemsetAsync(data_, byte, bytes(), stream), "fill of device memory");
  }
  // Waits for all work of the device.
  std::vector<T> to_host() const {
    std::vector<T> values(size_);
    check(cudaDeviceSynchronize(), "wait for the device");
    if (size_ > 0)
      check(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "copy from the device");
    return values;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace dpfa::cuda
