#include "kernels/cuda/tensor_map.h"

#include "kernels/cuda/device.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, without linking the driver.
EncodeTiled encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "look for cuTensorMapEncodeTiled in the driver");
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw Unsupported("the driver has no tensor maps (cuTensorMapEncodeTiled): install a driver for CUDA 13");
  return reinterpret_cast<EncodeTiled>(function);
}

}  // namespace

CUtensorMap tensor_map(const uint16_t* data, int64_t stride, int64_t rows, int64_t columns,
                       uint32_t box_columns, uint32_t box_rows) {
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[2] = {box_columns, box_rows}, steps[2] = {1, 1};
  const CUresult result =
      encode_tiled()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(data), sizes, strides,
                     box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  DPFA_CHECK(result == CUDA_SUCCESS, "tensor map of ", rows, " x ", columns, ": error ",
             static_cast<int>(result));
  return map;
}

}  // namespace dpfa::kernels::cuda
