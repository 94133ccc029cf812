#include <limits>

#include "kernels/cuda/clip.h"
#include "kernels/cuda/device.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kBlock = 128;

__global__ void join_tied_rows_kernel(const int64_t* offsets, int64_t examples, int64_t rows, int64_t columns,
                                      const TiedRows tied, GramResult* results, uint8_t* certified) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (b >= examples) return;
  results[b] = tied_result(results[b], tied.squares[b], tied.terms[b], tied.magnitudes[b], columns);
  certified[b] = is_certified(results[b], offsets[b + 1] - offsets[b], rows, columns) ? 1 : 0;
}

__global__ void choose_direct_kernel(const uint8_t* certified, const int64_t* unit_matrix, int64_t units,
                                     int64_t matrices, const uint8_t* selected, int64_t examples,
                                     uint8_t* active) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= matrices * examples) return;
  const int64_t matrix = i / examples, b = i % examples;
  bool has_unit = false, certain = true;
  for (int64_t u = 0; u < units; ++u) {
    if (unit_matrix[u] != matrix) continue;
    has_unit = true;
    certain = certain && certified[u * examples + b] != 0;
  }
  active[i] = !(has_unit && certain) && selected[b] != 0 ? 1 : 0;
}

__global__ void matrix_squares_kernel(const GramResult* results, const int64_t* unit_matrix, int64_t units,
                                      const double* direct, const uint8_t* active, int64_t matrices,
                                      int64_t examples, double* squares) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (b >= examples) return;
  double sum = 0;
  for (int64_t u = 0; u < units; ++u)
    if (active[unit_matrix[u] * examples + b] == 0) sum += upper_squared(results[u * examples + b]);
  for (int64_t m = 0; m < matrices; ++m)
    if (active[m * examples + b] != 0) sum += direct[m * examples + b];
  squares[b] = sum;
}

__global__ void sum_parts_kernel(const double* parts, int64_t count, int64_t examples, double* squares) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (b >= examples) return;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += parts[i * examples + b];
  squares[b] = sum;
}

__global__ void clip_scales_kernel(const double* squares, const uint8_t* selected, int64_t examples,
                                   Clipping clip, double cells, double* factors, float* scales) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (b >= examples) return;
  const double factor = selected[b] != 0 ? factor_of(squares[b], clip) : 0;
  factors[b] = factor;
  scales[b] = __double2float_rd(factor * cells);  // cells is a power of two: the product is exact
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kBlock - 1) / kBlock); }

}  // namespace

void join_tied_rows(const int64_t* offsets, int64_t examples, int64_t rows, int64_t columns,
                    const TiedRows& tied, GramResult* results, uint8_t* certified, cudaStream_t stream) {
  if (examples == 0) return;
  join_tied_rows_kernel<<<blocks_for(examples), kBlock, 0, stream>>>(offsets, examples, rows, columns, tied,
                                                                     results, certified);
  check_launch("join_tied_rows");
}

void choose_direct(const uint8_t* certified, const int64_t* unit_matrix, int64_t units, int64_t matrices,
                   const uint8_t* selected, int64_t examples, uint8_t* active, cudaStream_t stream) {
  if (matrices * examples == 0) return;
  choose_direct_kernel<<<blocks_for(matrices * examples), kBlock, 0, stream>>>(
      certified, unit_matrix, units, matrices, selected, examples, active);
  check_launch("choose_direct");
}

void matrix_squares(const GramResult* results, const int64_t* unit_matrix, int64_t units,
                    const double* direct, const uint8_t* active, int64_t matrices, int64_t examples,
                    double* squares, cudaStream_t stream) {
  if (examples == 0) return;
  matrix_squares_kernel<<<blocks_for(examples), kBlock, 0, stream>>>(results, unit_matrix, units, direct,
                                                                     active, matrices, examples, squares);
  check_launch("matrix_squares");
}

void sum_parts(const double* parts, int64_t count, int64_t examples, double* squares, cudaStream_t stream) {
  if (examples == 0) return;
  sum_parts_kernel<<<blocks_for(examples), kBlock, 0, stream>>>(parts, count, examples, squares);
  check_launch("sum_parts");
}

void clip_scales(const double* squares, const uint8_t* selected, int64_t examples, Clipping clip,
                 int grid_exponent, double* factors, float* scales, cudaStream_t stream) {
  if (examples == 0) return;
  clip_scales_kernel<<<blocks_for(examples), kBlock, 0, stream>>>(
      squares, selected, examples, clip, std::ldexp(1.0, -grid_exponent), factors, scales);
  check_launch("clip_scales");
}

}  // namespace dpfa::kernels::cuda
