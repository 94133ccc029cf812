// The mma.sync path of the Gram norm and what surrounds both paths: row norms before, the fixed-order sums
// after.
//
// A block forms one pair of tiles. The Gram entries of the inputs are parked in shared memory, every thread
// its own, while those of the output gradient run through the same registers group by group. A chain of
// products is kDepth long: its result joins the f32 sums in round to nearest (error_bound.h).
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/cuda/gram_tiles.cuh"
#include "kernels/cuda/tensor_map.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kParkedBytes = kTile * kTile * 4;
constexpr int kSharedBytes = kStages * kStageBytes + kParkedBytes;

__device__ __forceinline__ void load_step(const GramTask& task, int32_t step, uint32_t stage) {
  const GramMatrix& m = *task.matrix;
  const GramStep s = gram_step(shape_of(m), step);
  const int64_t stride = s.of_gradient ? m.g_stride : m.x_stride;
  const uint16_t* rows = (s.of_gradient ? m.g : m.x) + task.begin * stride + s.column;
  load_operand<DepthAlongRows>(stage, rows + task.row * stride, stride, task.length - task.row, s.left);
  load_operand<DepthAlongRows>(stage + kOperandBytes, rows + task.column * stride, stride,
                               task.length - task.column, s.left);
}

__device__ __forceinline__ void finish_group(const GramTables& tables, const GramTask& task, int32_t group,
                                             const float* parked, const Accumulators& sum) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* g_norms = task.g_norms(tables, group);
  RowNorms columns[2 * kFragments];
#pragma unroll
  for (int n = 0; n < kFragments; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      columns[2 * n + i] = task.norms(g_norms, task.column + mma_entry(warp, lane, 0, n, i).column);
  GramSums sums;
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowNorms row = task.norms(g_norms, task.row + mma_entry(warp, lane, m, 0, 2 * half).row);
      RowErrors errors;
#pragma unroll
      for (int n = 0; n < kFragments; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i)
          task.add(row, columns[2 * n + i % 2], parked[((m * kFragments + n) * 4 + i) * kThreads],
                   sum[m][n][i], sums, errors);
      task.close_row(row, errors, sums);
    }
  task.store(tables, group, warp, sums);
}

__global__ __launch_bounds__(kThreads, 1) void gram_tiles_kernel(const GramTables tables) {
#if __CUDA_ARCH__ >= 800
  if (DPFA_PLANT("kernel_body_empty")) return;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t ring = shared_address(shared);
  float* parked = reinterpret_cast<float*>(shared + kStages * kStageBytes) + threadIdx.x;
  const GramTask task(tables, blockIdx.x);
  const GramShape shape = shape_of(*task.matrix);
  const int32_t steps = shape.steps();

  Accumulators chain, sum;
  set_zero(sum);
  for (int32_t s = 0; s < kStages - 1; ++s) {
    if (s < steps) load_step(task, s, ring + static_cast<uint32_t>(s) * kStageBytes);
    commit_copies();
  }
  uint32_t stage = 0, ahead = kStages - 1;
  for (int32_t s = 0; s < steps; ++s) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the step's operands are there, and nobody reads the stage that is filled next
    if (s + kStages - 1 < steps) load_step(task, s + kStages - 1, ring + ahead * kStageBytes);
    commit_copies();
    const GramStep step = gram_step(shape, s);
    const int depth16 = step.left >= kDepth ? kDepth / 16 : (step.left + 15) / 16;
    stage_product<DepthAlongRows>(ring + stage * kStageBytes, depth16, chain);
    add_to(sum, chain);
    if (step.closes) {
      if (step.of_gradient) {
        finish_group(tables, task, step.group, parked, sum);
      } else {
#pragma unroll
        for (int m = 0; m < kFragments; ++m)
#pragma unroll
          for (int n = 0; n < kFragments; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) parked[((m * kFragments + n) * 4 + i) * kThreads] = sum[m][n][i];
      }
      set_zero(sum);
    }
    stage = stage + 1 == kStages ? 0 : stage + 1;
    ahead = ahead + 1 == kStages ? 0 : ahead + 1;
  }
#else
  __trap();  // a norm that was not computed must not pass for one
#endif
}

// One warp per row and unit; units beyond the last are the matrices' inputs.
__global__ void row_norms_kernel(const GramTables tables, const int64_t* unit_matrix, int64_t matrices) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp >= (tables.units + matrices) * tables.rows) return;
  const int64_t unit = warp / tables.rows, row = warp % tables.rows;
  const bool of_gradient = unit < tables.units;
  const GramMatrixEntry& entry = tables.matrices[of_gradient ? unit_matrix[unit] : unit - tables.units];
  const GramMatrix& m = entry.matrix;
  const int64_t width = of_gradient ? m.outputs / m.groups : m.inputs;
  const uint16_t* values =
      of_gradient ? m.g + row * m.g_stride + (unit - entry.first_unit) * width : m.x + row * m.x_stride;
  double sum = 0;
  for (int64_t i = lane; i < width; i += 32) {
    const double v = __uint_as_float(static_cast<uint32_t>(values[i]) << 16);
    sum += v * v;
  }
  sum = warp_sum(sum);
  const float norm = __double2float_ru(padded_norm(sum, width));
  if (lane != 0) return;
  if (of_gradient)
    tables.g_norms[warp] = norm;
  else
    tables.x_norms[warp - tables.units * tables.rows] = norm;
}

// One warp per unit and example.
__global__ void gram_results_kernel(const GramTables tables, const int64_t* unit_matrix, GramResult* results,
                                    uint8_t* certified) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp >= tables.units * tables.examples) return;
  const int64_t unit = warp / tables.examples, b = warp % tables.examples;
  const GramMatrix& m = tables.matrices[unit_matrix[unit]].matrix;
  const double* slots = tables.slots + (unit * tables.tasks + tables.first[b]) * kWarps;
  const int64_t count = (tables.first[b + 1] - tables.first[b]) * kWarps;
  const int64_t plane = tables.units * tables.tasks * kWarps;
  const double value = warp_sum(lane_sum(slots, count, lane));
  const double x_error = warp_sum(lane_sum(slots + plane, count, lane));
  const double g_error = warp_sum(lane_sum(slots + 2 * plane, count, lane));
  const int64_t begin = tables.offsets[b], length = tables.offsets[b + 1] - begin;
  const float* x_norms = tables.x_norms + unit_matrix[unit] * tables.rows + begin;
  const float* g_norms = tables.g_norms + unit * tables.rows + begin;
  double magnitude = 0;
  for (int64_t t = lane; t < length; t += 32) magnitude += static_cast<double>(x_norms[t]) * g_norms[t];
  magnitude = warp_sum(magnitude);
  if (lane != 0) return;
  const int64_t width = m.outputs / m.groups;
  const GramResult result = gram_result(value, x_error, g_error, magnitude, m.inputs, width);
  results[warp] = result;
  certified[warp] = is_certified(result, length, m.inputs, width) ? 1 : 0;
}

bool is_aligned(const uint16_t* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

void check_matrix(const GramMatrix& m) {
  DPFA_CHECK(m.inputs > 0 && m.outputs > 0 && m.groups > 0 && m.outputs % m.groups == 0, m.inputs,
             " inputs, ", m.outputs, " outputs in ", m.groups, " groups");
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max() / 2;
  DPFA_CHECK(m.inputs <= kLargest && m.outputs <= kLargest, "a layer wider than 2^30");
  DPFA_CHECK(m.groups == 1 || (m.outputs / m.groups) % 8 == 0, "groups of ", m.outputs / m.groups,
             " outputs");
  DPFA_CHECK(is_aligned(m.x) && is_aligned(m.g) && m.x_stride % 8 == 0 && m.g_stride % 8 == 0,
             "rows must begin at multiples of 16 bytes: pad them");
  DPFA_CHECK(m.x_stride >= m.inputs && m.g_stride >= m.outputs, "a stride is shorter than its row");
}

bool wgmma_can(const GramMatrix& m) {
  return (m.groups == 1 || (m.outputs / m.groups) % kDepth == 0) &&
         std::max(m.x_stride, m.g_stride) < kMapStrides;
}

int64_t blocks_of_warps(int64_t warps) { return (warps * 32 + kThreads - 1) / kThreads; }

template <typename T>
DeviceArray<uint8_t> table_of(const std::vector<T>& values) {
  return DeviceArray<uint8_t>(
      std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)));
}

}  // namespace

GramNormPlan::GramNormPlan(std::span<const GramMatrix> matrices, std::span<const int64_t> offsets,
                           std::optional<TensorPath> path)
    : matrix_count_(static_cast<int64_t>(matrices.size())) {
  bool wgmma = true;
  std::vector<GramMatrixEntry> entries;
  std::vector<int64_t> unit_matrix;
  for (const GramMatrix& m : matrices) {
    check_matrix(m);
    wgmma = wgmma && wgmma_can(m);
    entries.push_back({m, units_});
    units_ += m.groups;
    unit_matrix.resize(units_, static_cast<int64_t>(entries.size()) - 1);
  }
  path_ =
      choose_path(path, wgmma, "blocks of outputs that are multiples of 64 and strides below 2^39 numbers");
  DPFA_CHECK(!offsets.empty() && offsets[0] >= 0, "offsets of the examples are missing");
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    DPFA_CHECK(offsets[b] <= offsets[b + 1], "offsets must not descend");
  examples_ = static_cast<int64_t>(offsets.size()) - 1;
  rows_ = offsets.back();
  std::vector<int64_t> first(offsets.size());
  count_tasks(offsets.data(), examples_, kTile, first.data());
  tasks_ = first.back();
  DPFA_CHECK(rows_ <= std::numeric_limits<int32_t>::max() / 2, "more than 2^30 tokens in one plan");
  DPFA_CHECK(units_ * tasks_ <= std::numeric_limits<int32_t>::max() &&
                 matrix_count_ * tasks_ <= std::numeric_limits<int32_t>::max(),
             "too many tiles in one plan");

  matrices_ = table_of(entries);
  if (path_ == TensorPath::kWgmma) {
    std::vector<GramMaps> maps;
    if (rows_ > 0)
      for (const GramMatrix& m : matrices) maps.push_back(gram_maps(m, rows_));
    maps_ = table_of(maps);
    prepare_gram_wgmma();
  } else {
    allow_shared_memory(reinterpret_cast<const void*>(gram_tiles_kernel), kSharedBytes, "gram_tiles");
  }
  offsets_ = DeviceArray<int64_t>(offsets);
  first_ = DeviceArray<int64_t>(std::span<const int64_t>(first));
  unit_matrix_ = DeviceArray<int64_t>(std::span<const int64_t>(unit_matrix));
  x_norms_ = DeviceArray<float>(matrix_count_ * rows_);
  g_norms_ = DeviceArray<float>(units_ * rows_);
  slots_ = DeviceArray<double>(3 * units_ * tasks_ * kWarps);
  results_ = DeviceArray<GramResult>(units_ * examples_);
  certified_ = DeviceArray<uint8_t>(units_ * examples_);
}

void GramNormPlan::run(cudaStream_t stream) {
  x_norms_.fill_bytes(unwritten_byte(), stream);
  g_norms_.fill_bytes(unwritten_byte(), stream);
  slots_.fill_bytes(unwritten_byte(), stream);
  results_.fill_bytes(unwritten_byte(), stream);
  certified_.fill_bytes(0, stream);
  GramTables tables = {reinterpret_cast<const GramMatrixEntry*>(matrices_.data()),
                       reinterpret_cast<const GramMaps*>(maps_.data()),
                       offsets_.data(),
                       first_.data(),
                       examples_,
                       units_,
                       rows_,
                       tasks_,
                       x_norms_.data(),
                       g_norms_.data(),
                       slots_.data()};
  if (rows_ > 0 && matrix_count_ > 0) {
    const int64_t blocks = blocks_of_warps((units_ + matrix_count_) * rows_);
    DPFA_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "too many rows in one plan");
    row_norms_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(tables, unit_matrix_.data(),
                                                                             matrix_count_);
    check_launch("row_norms");
  }
  const int64_t tiles = matrix_count_ * tasks_;
  if (tiles > 0) {
    if (path_ == TensorPath::kWgmma)
      check(launch_gram_wgmma(tables, tiles, stream), "start of the kernel gram_wgmma");
    else
      gram_tiles_kernel<<<static_cast<unsigned>(tiles), kThreads, kSharedBytes, stream>>>(tables);
    check_launch("gram_tiles");
  }
  if (units_ * examples_ > 0) {
    gram_results_kernel<<<static_cast<unsigned>(blocks_of_warps(units_ * examples_)), kThreads, 0, stream>>>(
        tables, unit_matrix_.data(), results_.data(), certified_.data());
    check_launch("gram_results");
  }
}

}  // namespace dpfa::kernels::cuda
