// What the two main loops of products over tokens (segment_gemm.cu, segment_gemm_sm90.cu) share: their
// tables, a block's tile, the order of its depth steps, and where the sums of a thread lie.
#pragma once

#include "kernels/cuda/scaled_sum.h"
#include "kernels/cuda/segment_gemm.h"
#include "kernels/cuda/tile_layout.h"

namespace dpfa::kernels::cuda {

inline constexpr int kBand = 8;  // tile rows that share the right operand in the second-level cache

struct SegmentTables {
  const SegmentProduct* products;
  const int64_t* offsets;
  const int64_t* first_tile;  // (matrices + 1)
  int64_t matrices, examples;
  const uint8_t* active;  // (matrices, examples), or null: those with a scale
  const float* scales;    // (examples), or null
};

// The last i in [0, count) with first[i] <= number.
__device__ __forceinline__ int64_t last_at_most(const int64_t* first, int64_t count, int64_t number) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first[middle] <= number ? low : high) = middle;
  }
  return low;
}

// One block's view of its tile.
struct ProductTask {
  const SegmentProduct* product;
  int64_t matrix, local, tiles;  // local: number of the tile in its matrix
  int32_t row, column;           // the tile's first

  __device__ ProductTask(const SegmentTables& t, int64_t number) {
    matrix = last_at_most(t.first_tile, t.matrices, number);
    product = &t.products[matrix];
    local = number - t.first_tile[matrix];
    tiles = t.first_tile[matrix + 1] - t.first_tile[matrix];
    const TilePair tile =
        banded_tile(local, tiles_of(product->rows, kTile), tiles_of(product->columns, kTile), kBand);
    row = static_cast<int32_t>(tile.row * kTile);
    column = static_cast<int32_t>(tile.column * kTile);
  }
  __device__ __forceinline__ bool holds(int64_t r, int64_t c) const {
    return r < product->rows && c < product->columns;
  }
  __device__ __forceinline__ double* slot(const SegmentTables& t, double* slots, int64_t example) const {
    const int64_t base = t.first_tile[matrix] * t.examples + example * tiles + local;
    return slots + base * kWarps + threadIdx.x / 32;
  }
};

__device__ __forceinline__ bool is_active(const SegmentTables& t, int64_t matrix, int64_t example) {
  return t.active != nullptr ? t.active[matrix * t.examples + example] != 0 : t.scales[example] > 0;
}
__device__ __forceinline__ DepthStep active_step(const SegmentTables& t, int64_t matrix, DepthStep step) {
  while (step.example < t.examples && !is_active(t, matrix, step.example))
    step = depth_step_from(t.offsets, t.examples, kDepth, step.example, t.offsets[step.example + 1]);
  return step;
}
__device__ __forceinline__ DepthStep following_step(const SegmentTables& t, int64_t matrix,
                                                    const DepthStep& step) {
  return active_step(t, matrix, next_depth_step(t.offsets, t.examples, kDepth, step));
}

// ---- Where the sums of a thread lie in the tile: 64 of them, in kRows rows of kPerRow.

struct MmaLayout {
  using Sums = float[kFragments][kFragments][4];
  static constexpr int kRows = 2 * kFragments, kPerRow = 2 * kFragments;
  __device__ __forceinline__ static float& at(Sums& sums, int number) {
    return sums[number / (4 * kFragments)][number / 4 % kFragments][number % 4];
  }
  __device__ __forceinline__ static constexpr int number(int row, int i) {
    return (row / 2 * kFragments + i / 2) * 4 + row % 2 * 2 + i % 2;
  }
  __device__ __forceinline__ static Entry place(int number) {
    return mma_entry(threadIdx.x / 32, threadIdx.x % 32, number / (4 * kFragments), number / 4 % kFragments,
                     number % 4);
  }
};

struct WgmmaLayout {
  using Sums = float[64];
  static constexpr int kRows = 2, kPerRow = 32;
  __device__ __forceinline__ static float& at(Sums& sums, int number) { return sums[number]; }
  __device__ __forceinline__ static constexpr int number(int row, int i) {
    return i / 2 * 4 + row * 2 + i % 2;
  }
  __device__ __forceinline__ static Entry place(int number) {
    const Entry at = wgmma_entry(threadIdx.x % 128, number);
    return {static_cast<int>(threadIdx.x) / 128 * 64 + at.row, at.column};
  }
};

// Calls body(number, row, column) for every sum of this thread that lies in the matrix.
template <class Layout, typename Body>
__device__ __forceinline__ void for_each_entry(const ProductTask& task, const Body& body) {
#pragma unroll
  for (int number = 0; number < Layout::kRows * Layout::kPerRow; ++number) {
    const Entry at = Layout::place(number);
    if (task.holds(task.row + at.row, task.column + at.column))
      body(number, task.row + at.row, task.column + at.column);
  }
}

// Joins a chain of products to the sums, scaled where one sum is over all examples.
template <class Finish, class Layout>
__device__ __forceinline__ void add_chain(float scale, typename Layout::Sums& chain,
                                          typename Layout::Sums& sum) {
#pragma unroll
  for (int i = 0; i < Layout::kRows * Layout::kPerRow; ++i)
    Layout::at(sum, i) = Finish::kOneSum ? add_scaled(Layout::at(sum, i), scale, Layout::at(chain, i))
                                         : __fadd_rn(Layout::at(sum, i), Layout::at(chain, i));
}

// Adds the example's extra rows, scaled, where they meet the tile.
template <class Layout>
__device__ __forceinline__ void add_extra_rows(const ProductTask& task, int64_t example, float scale,
                                               typename Layout::Sums& sum) {
  const ExtraRows& extra = task.product->extra;
  if (extra.ids == nullptr) return;
  const int64_t end = extra.first[example + 1];
#pragma unroll
  for (int r = 0; r < Layout::kRows; ++r) {
    const int64_t row = task.row + Layout::place(Layout::number(r, 0)).row;
    int64_t low = extra.first[example], high = end;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (extra.ids[middle] < row)
        low = middle + 1;
      else
        high = middle;
    }
    if (low == end || extra.ids[low] != row) continue;
#pragma unroll
    for (int i = 0; i < Layout::kPerRow; ++i) {
      float& entry = Layout::at(sum, Layout::number(r, i));
      const int64_t column = task.column + Layout::place(Layout::number(r, i)).column;
      if (column < task.product->columns)
        entry = add_scaled(entry, scale, extra.rows[low * task.product->columns + column]);
    }
  }
}

}  // namespace dpfa::kernels::cuda
