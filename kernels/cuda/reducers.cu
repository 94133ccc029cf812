#include <algorithm>
#include <limits>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reducers.h"
#include "kernels/cuda/scaled_sum.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kColumns = 32;  // of a block of threads: one warp wide
constexpr int kLines = 8;     // rows that a block of threads reads at once

__device__ __forceinline__ float value_of(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Line l adds rows l, l + kLines, ... in order; lines are then added in order. Returns the sum in line 0.
__device__ __forceinline__ double sum_of_lines(double (&lines)[kLines][kColumns], double own) {
  lines[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  double sum = 0;
  if (threadIdx.y == 0)
    for (int l = 0; l < kLines; ++l) sum += lines[l][threadIdx.x];
  __syncthreads();
  return sum;
}

// gain may be null (bias alone), shift may be null (RMSNorm), mean may be null (0).
__global__ void column_sums_kernel(const RowsOfExamples shape, const uint16_t* g, const uint16_t* x,
                                   const float* mean, const float* rstd, float* gain, float* shift) {
  __shared__ double lines[kLines][kColumns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x, b = blockIdx.y;
  const bool inside = column < shape.columns;
  double gain_sum = 0, shift_sum = 0;
  for (int64_t t = shape.offsets[b] + threadIdx.y; inside && t < shape.offsets[b + 1]; t += kLines) {
    const float gradient = value_of(g[t * shape.columns + column]);
    shift_sum += gradient;
    if (gain == nullptr) continue;
    const float centred =
        __fsub_rn(value_of(x[t * shape.columns + column]), mean == nullptr ? 0.0f : mean[t]);
    gain_sum += __fmul_rn(gradient, __fmul_rn(centred, rstd[t]));
  }
  const int64_t at = b * shape.columns + column;
  if (gain != nullptr) {
    const double sum = sum_of_lines(lines, gain_sum);
    if (inside && threadIdx.y == 0) gain[at] = static_cast<float>(sum);
  }
  if (shift != nullptr) {
    const double sum = sum_of_lines(lines, shift_sum);
    if (inside && threadIdx.y == 0) shift[at] = static_cast<float>(sum);
  }
}

// Adds `own` over the block in a fixed order: within each warp, then warp by warp. The sum is in thread 0.
__device__ __forceinline__ double block_sum(double own) {
  __shared__ double warps[kWarps];
  own = warp_sum(own);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < kWarps; ++w) sum += warps[w];
  return sum;
}

// One block per example: its values are [first[b], first[b + 1]) x columns of `values`, or row b where first
// is null.
template <typename T>
__global__ void squares_kernel(const T* values, const int64_t* first, int64_t columns, double* squares) {
  const int64_t b = blockIdx.x, begin = (first == nullptr ? b : first[b]) * columns;
  const int64_t end = (first == nullptr ? b + 1 : first[b + 1]) * columns;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    double v;
    if constexpr (std::is_same_v<T, uint16_t>)
      v = value_of(values[i]);
    else
      v = values[i];
    sum = fma(v, v, sum);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) squares[b] = sum;
}

__device__ __forceinline__ int32_t to_grid(float value, float scale) { return scaled_integer(scale, value); }

__global__ void add_integers_kernel(const float* values, const float* scales, int64_t examples,
                                    int64_t columns, int32_t* sum) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= columns) return;
  int32_t total = 0;
  for (int64_t b = 0; b < examples; ++b)
    if (scales[b] > 0) total += to_grid(values[b * columns + i], scales[b]);
  sum[i] += total;
}

__global__ void embedding_rows_kernel(const int64_t* positions, const int64_t* first, const uint16_t* g,
                                      int64_t columns, float* rows) {
  const int64_t u = blockIdx.x;
  for (int64_t c = threadIdx.x; c < columns; c += kThreads) {
    double sum = 0;
    for (int64_t i = first[u]; i < first[u + 1]; ++i) sum += value_of(g[positions[i] * columns + c]);
    rows[u * columns + c] = static_cast<float>(sum);
  }
}

__global__ void add_row_integers_kernel(const int64_t* ids, const int64_t* first_group, int64_t examples,
                                        const float* rows, int64_t columns, const float* scales,
                                        int32_t* table) {
  const int64_t u = blockIdx.x;
  int64_t low = 0, high = examples;  // the example with first_group[b] <= u < first_group[b + 1]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first_group[middle] <= u ? low : high) = middle;
  }
  const float scale = scales[low];
  if (!(scale > 0)) return;
  for (int64_t c = threadIdx.x; c < columns; c += kThreads)
    atomicAdd(table + ids[u] * columns + c, to_grid(rows[u * columns + c], scale));
}

__global__ void add_position_integers_kernel(const RowsOfExamples shape, const uint16_t* g,
                                             const float* scales, int64_t positions, int32_t* table) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t t = i / shape.columns;
  if (t >= positions) return;
  int32_t total = 0;
  for (int64_t b = 0; b < shape.examples; ++b)
    if (scales[b] > 0 && t < shape.offsets[b + 1] - shape.offsets[b])
      total += to_grid(value_of(g[shape.offsets[b] * shape.columns + i]), scales[b]);
  table[i] += total;
}

unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  DPFA_CHECK(blocks <= std::numeric_limits<int32_t>::max(), threads, " elements in one launch");
  return static_cast<unsigned>(blocks);
}

void column_sums(const RowsOfExamples& s, const uint16_t* g, const uint16_t* x, const float* mean,
                 const float* rstd, float* gain, float* shift, cudaStream_t stream) {
  if (s.examples == 0 || s.columns == 0) return;
  DPFA_CHECK(s.examples <= 65535, s.examples, " examples in one launch");
  const dim3 grid(static_cast<unsigned>((s.columns + kColumns - 1) / kColumns),
                  static_cast<unsigned>(s.examples));
  column_sums_kernel<<<grid, dim3(kColumns, kLines), 0, stream>>>(s, g, x, mean, rstd, gain, shift);
  check_launch("column_sums");
}

template <typename T>
void squares(const T* values, const int64_t* first, int64_t examples, int64_t columns, double* out,
             cudaStream_t stream) {
  if (examples == 0) return;
  squares_kernel<<<static_cast<unsigned>(examples), kThreads, 0, stream>>>(values, first, columns, out);
  check_launch("squares");
}

}  // namespace

void bias_gradient(const RowsOfExamples& shape, const uint16_t* g, float* out, cudaStream_t stream) {
  column_sums(shape, g, nullptr, nullptr, nullptr, nullptr, out, stream);
}

void norm_layer_gradient(const RowsOfExamples& shape, const uint16_t* g, const uint16_t* x, const float* mean,
                         const float* rstd, float* gain, float* shift, cudaStream_t stream) {
  DPFA_CHECK(gain != nullptr || shape.examples * shape.columns == 0, "a normalisation layer without gain");
  column_sums(shape, g, x, mean, rstd, gain, shift, stream);
}

void vector_squares(const float* values, int64_t examples, int64_t columns, double* out,
                    cudaStream_t stream) {
  squares<float>(values, nullptr, examples, columns, out, stream);
}

void add_integers(const float* values, const float* scales, int64_t examples, int64_t columns, int32_t* sum,
                  cudaStream_t stream) {
  if (columns == 0) return;
  add_integers_kernel<<<blocks_for(columns), kThreads, 0, stream>>>(values, scales, examples, columns, sum);
  check_launch("add_integers");
}

DeviceTokenGroups::DeviceTokenGroups(const TokenGroups& g)
    : positions(std::span<const int64_t>(g.positions)),
      first_position(std::span<const int64_t>(g.first_position)),
      ids(std::span<const int64_t>(g.ids)),
      first_group(std::span<const int64_t>(g.first_group)) {}

void embedding_rows(const DeviceTokenGroups& groups, const uint16_t* g, int64_t columns, float* rows,
                    cudaStream_t stream) {
  if (groups.groups() == 0) return;
  embedding_rows_kernel<<<static_cast<unsigned>(groups.groups()), kThreads, 0, stream>>>(
      groups.positions.data(), groups.first_position.data(), g, columns, rows);
  check_launch("embedding_rows");
}

void token_row_squares(const DeviceTokenGroups& groups, int64_t examples, const float* rows, int64_t columns,
                       double* out, cudaStream_t stream) {
  squares<float>(rows, groups.first_group.data(), examples, columns, out, stream);
}

void add_row_integers(const DeviceTokenGroups& groups, int64_t examples, const float* rows, int64_t columns,
                      const float* scales, int32_t* table, cudaStream_t stream) {
  if (groups.groups() == 0) return;
  add_row_integers_kernel<<<static_cast<unsigned>(groups.groups()), kThreads, 0, stream>>>(
      groups.ids.data(), groups.first_group.data(), examples, rows, columns, scales, table);
  check_launch("add_row_integers");
}

void position_squares(const RowsOfExamples& shape, const uint16_t* g, double* out, cudaStream_t stream) {
  squares<uint16_t>(g, shape.offsets, shape.examples, shape.columns, out, stream);
}

void add_position_integers(const RowsOfExamples& shape, const uint16_t* g, const float* scales,
                           int64_t positions, int32_t* table, cudaStream_t stream) {
  if (positions * shape.columns == 0) return;
  add_position_integers_kernel<<<blocks_for(positions * shape.columns), kThreads, 0, stream>>>(
      shape, g, scales, positions, table);
  check_launch("add_position_integers");
}

}  // namespace dpfa::kernels::cuda
