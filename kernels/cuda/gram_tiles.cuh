// What the two main loops of the Gram norm (gram_norm.cu, gram_norm_sm90.cu) share: their tables and what
// becomes of a finished pair of Gram entries.
#pragma once

#include <cuda.h>

#include "kernels/cuda/gram_norm.h"
#include "kernels/cuda/mma.cuh"

namespace dpfa::kernels::cuda {

struct GramMatrixEntry {
  GramMatrix matrix;
  int64_t first_unit;
};

struct GramMaps {
  CUtensorMap x, g;
};

struct GramTables {
  const GramMatrixEntry* matrices;
  const GramMaps* maps;  // null on the path without TMA
  const int64_t* offsets;
  const int64_t* first;
  int64_t examples, units, rows, tasks;  // tasks of one matrix
  float *x_norms, *g_norms;              // (matrices, rows), (units, rows): padded norms
  double* slots;                         // value, x_error, g_error: each (units, tasks, kWarps)
};

__device__ __forceinline__ GramShape shape_of(const GramMatrix& m) {
  return {static_cast<int32_t>(m.inputs), static_cast<int32_t>(m.outputs / m.groups),
          static_cast<int32_t>(m.groups)};
}

// Sums of one thread over its entries of one tile and unit.
struct GramSums {
  double value = 0, x_error = 0, g_error = 0;
};

// Padded norms of x_t and g_t; both 0 beyond the example (they never are within it).
struct RowNorms {
  float x, g;
};
// Sums over entries of one row t: those of |x_u| |g_t . g_u| and of |g_u| |x_t . x_u|.
struct RowErrors {
  double x = 0, g = 0;
};

// One block's view of its task.
struct GramTask {
  const GramMatrix* matrix;
  const float* x_norms;
  int64_t begin;              // first row of the example
  int32_t length;             // rows of the example
  int32_t row, column;        // first rows of the two tiles, within the example
  int32_t first_unit, local;  // local: number of the task in its matrix
  float bias;

  __device__ GramTask(const GramTables& t, int64_t number) {
    const TileTask task = tile_task(t.first, t.examples, number);
    matrix = &t.matrices[task.matrix].matrix;
    first_unit = static_cast<int32_t>(t.matrices[task.matrix].first_unit);
    local = static_cast<int32_t>(number - task.matrix * t.tasks);
    begin = t.offsets[task.example];
    length = static_cast<int32_t>(t.offsets[task.example + 1] - begin);
    row = static_cast<int32_t>(task.pair.row * kTile);
    column = static_cast<int32_t>(task.pair.column * kTile);
    x_norms = t.x_norms + task.matrix * t.rows + begin;
    bias = matrix->bias ? 1 : 0;
  }

  __device__ __forceinline__ RowNorms norms(const float* g_norms, int32_t t) const {
    return t < length ? RowNorms{x_norms[t], g_norms[t]} : RowNorms{0, 0};
  }
  // Adds the entry of rows t and u: a = fl(x_t . x_u), b = fl(g_t . g_u). Rows beyond the example belong to
  // another one: their entries are left out, whatever they hold.
  __device__ __forceinline__ void add(const RowNorms& t, const RowNorms& u, float a, float b, GramSums& sums,
                                      RowErrors& errors) const {
    const bool inside = t.x != 0 && u.x != 0;
    const double x = inside ? static_cast<double>(a) + bias : 0.0, g = inside ? static_cast<double>(b) : 0.0;
    sums.value = fma(x, g, sums.value);
    errors.x = fma(static_cast<double>(u.x), fabs(g), errors.x);
    errors.g = fma(static_cast<double>(u.g), fabs(x), errors.g);
  }
  __device__ __forceinline__ static void close_row(const RowNorms& t, const RowErrors& errors,
                                                   GramSums& sums) {
    sums.x_error = fma(static_cast<double>(t.x), errors.x, sums.x_error);
    sums.g_error = fma(static_cast<double>(t.g), errors.g, sums.g_error);
  }
  __device__ __forceinline__ const float* g_norms(const GramTables& t, int32_t group) const {
    return t.g_norms + (first_unit + group) * t.rows + begin;
  }
  // Adds up the warp and writes its slot.
  __device__ __forceinline__ void store(const GramTables& t, int32_t group, int warp,
                                        const GramSums& sums) const {
    const int weight = pair_weight({row, column});
    const double value = warp_sum(sums.value), x = warp_sum(sums.x_error), g = warp_sum(sums.g_error);
    if (threadIdx.x % 32 != 0) return;
    double* slot = t.slots + ((first_unit + group) * t.tasks + local) * kWarps + warp;
    const int64_t plane = t.units * t.tasks * kWarps;
    slot[0] = weight * value;
    slot[plane] = weight * x;
    slot[2 * plane] = weight * g;
  }
};

// gram_norm_sm90.cu
cudaError_t launch_gram_wgmma(const GramTables& tables, int64_t blocks, cudaStream_t stream);
GramMaps gram_maps(const GramMatrix& matrix, int64_t rows);
void prepare_gram_wgmma();

}  // namespace dpfa::kernels::cuda
