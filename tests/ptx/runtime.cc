#include "tests/ptx/runtime.h"

#include <cuda.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/ptx/tensor.h"

namespace dpfa::ptx {

Runtime& runtime() {
  static Runtime* one = new Runtime;  // outlives the destructors of the program
  return *one;
}

cudaError_t answer(cudaError_t result) {
  if (runtime().sticky != cudaSuccess && result == cudaSuccess) result = runtime().sticky;
  if (result != cudaSuccess) runtime().last = result;
  return result;
}

namespace {

// A program that was seen to do wrong does not end well.
void at_exit() {
  std::fflush(nullptr);
  if (options().report) print_statistics();
  if (report_count() > 0 || runtime().faults > 0) {
    std::fprintf(stderr, "ptx: %lld reports, %lld faults\n", static_cast<long long>(report_count()),
                 static_cast<long long>(runtime().faults));
    _exit(kWrongExit);
  }
}

bool on_device(const void* p) { return memory().holds(reinterpret_cast<uint64_t>(p)); }

cudaError_t copy(void* to, const void* from, size_t bytes) {
  for (const void* p : {static_cast<const void*>(to), from})
    if (on_device(p) && !memory().exists(reinterpret_cast<uint64_t>(p), bytes)) {
      std::fprintf(stderr, "ptx: a copy of %zu bytes reaches outside of what was allocated\n", bytes);
      ++runtime().faults;
      return answer(cudaErrorInvalidValue);
    }
  std::memcpy(to, from, bytes);
  if (on_device(to)) {  // what was not written stays so
    if (!on_device(from))
      memory().mark_written(reinterpret_cast<uint64_t>(to), bytes);
    else
      std::memcpy(memory().shadow(reinterpret_cast<uint64_t>(to)),
                  memory().shadow(reinterpret_cast<uint64_t>(from)), bytes);
  }
  return answer(cudaSuccess);
}

cudaError_t set(void* to, int value, size_t bytes) {
  if (bytes == 0) return answer(cudaSuccess);
  if (!memory().exists(reinterpret_cast<uint64_t>(to), bytes)) {
    std::fprintf(stderr, "ptx: a fill of %zu bytes reaches outside of what was allocated\n", bytes);
    ++runtime().faults;
    return answer(cudaErrorInvalidValue);
  }
  std::memset(to, value, bytes);
  memory().mark_written(reinterpret_cast<uint64_t>(to), bytes);
  return answer(cudaSuccess);
}

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill_with) {
  const auto number = reinterpret_cast<uint64_t>(address);
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 2 ||
      number % 16 != 0 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      fill_with != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    return CUDA_ERROR_INVALID_VALUE;
  for (int k = 0; k < 2; ++k)
    if (sizes[k] == 0 || sizes[k] > uint64_t{1} << 32 || box[k] == 0 || box[k] > 256 || steps[k] != 1)
      return CUDA_ERROR_INVALID_VALUE;
  if (strides[0] % 16 != 0 || strides[0] >= uint64_t{1} << 40 || strides[0] < sizes[0] * 2 ||
      box[0] * 2 % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (swizzle != CU_TENSOR_MAP_SWIZZLE_128B || box[0] * 2 > 128) return CUDA_ERROR_INVALID_VALUE;
  const MapContent content = {kMapMagic, number, sizes[0], sizes[1], strides[0], box[0], box[1], 3};
  std::memset(map, 0, sizeof(*map));
  std::memcpy(map, &content, sizeof(content));
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace dpfa::ptx

namespace ptx = dpfa::ptx;
using dpfa::ptx::answer;
using dpfa::ptx::runtime;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  auto& r = runtime();
  if (r.binaries.empty()) std::atexit(ptx::at_exit);
  try {
    r.binaries.push_back(ptx::modules_of(wrapper));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ptx: %s\n", error.what());
    std::abort();
  }
  return reinterpret_cast<void**>(r.binaries.size());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  runtime().functions[host] = {static_cast<int>(reinterpret_cast<uintptr_t>(handle)) - 1, name};
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) { return 1; }

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  runtime().pushed.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const auto c = runtime().pushed.back();
  runtime().pushed.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t) {
  return ptx::launch_kernel(kernel, grid, block, arguments, shared);
}
cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t) {
  return ptx::launch_kernel(host, grid, block, arguments, shared);
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  const std::lock_guard lock(runtime().mutex);
  *p = bytes == 0 ? nullptr : reinterpret_cast<void*>(ptx::memory().allocate(bytes));
  return answer(cudaSuccess);
}
cudaError_t cudaFree(void* p) {
  const std::lock_guard lock(runtime().mutex);
  if (p == nullptr || ptx::memory().release(reinterpret_cast<uint64_t>(p))) return answer(cudaSuccess);
  return answer(cudaErrorInvalidValue);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return ptx::copy(to, from, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return ptx::copy(to, from, bytes);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return ptx::set(to, value, bytes); }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return ptx::set(to, value, bytes);
}
cudaError_t cudaDeviceSynchronize() { return answer(cudaSuccess); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return answer(cudaSuccess); }
cudaError_t cudaStreamCreate(cudaStream_t* s) { return *s = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* e) { return *e = nullptr, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return answer(cudaSuccess); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }
cudaError_t cudaGetLastError() {
  const cudaError_t e = runtime().last;
  runtime().last = cudaSuccess;
  return e;
}
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int c = ptx::options().capability;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = c / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = c % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(ptx::shared_limit());
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 108;
      break;
    default:
      return answer(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::memset(p, 0, sizeof(*p));
  std::snprintf(p->name, sizeof(p->name), "PTX interpreter");
  p->major = ptx::options().capability / 10, p->minor = ptx::options().capability % 10;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  const auto found = runtime().functions.find(host);
  if (found == runtime().functions.end() || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
    return answer(cudaErrorInvalidValue);
  if (value < 0 || static_cast<size_t>(value) > ptx::shared_limit()) return answer(cudaErrorInvalidValue);
  found->second.most_dynamic = static_cast<size_t>(value);
  return answer(cudaSuccess);
}
const char* cudaGetErrorName(cudaError_t e) { return e == cudaSuccess ? "cudaSuccess" : "error"; }
const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess               ? "no error"
         : e == cudaErrorIllegalAddress ? "the interpreter stopped a kernel"
                                        : "the interpreter refused a call";
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::string(name) == "cuTensorMapEncodeTiled";
  *function = known ? reinterpret_cast<void*>(&ptx::encode_tiled) : nullptr;
  if (found != nullptr) *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

}  // extern "C"
