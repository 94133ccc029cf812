// Tensor maps: what the copy engine of sm_90 knows of a matrix in memory.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace dpfa::kernels::cuda {

// A map's strides are below this, in numbers: the driver wants less than 2^40 bytes.
inline constexpr int64_t kMapStrides = int64_t{1} << 39;

// Of `data` (rows, columns), bfloat16 bits, aligned to 16 bytes, at a stride of a multiple of 8 numbers. A
// copy brings box_columns x box_rows numbers, rows of 128 bytes with their swizzle; what lies beyond the
// matrix arrives as zeros. box_columns is 64, box_rows at most 256. Throws Unsupported where the driver has
// no tensor maps, InternalError for a matrix that has none.
CUtensorMap tensor_map(const uint16_t* data, int64_t stride, int64_t rows, int64_t columns,
                       uint32_t box_columns, uint32_t box_rows);

}  // namespace dpfa::kernels::cuda
