// The cross term of a tied table: the tiles of the product g h^T, each entry multiplied with the logit
// gradient that it meets. The main loop is that of the Gram norm without symmetry.
#include <limits>

#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reducers.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kSharedBytes = kStages * kStageBytes;

struct Tables {
  TiedHead head;
  const int64_t* offsets;
  const int64_t* first;  // (B + 1), tasks of the examples before: all pairs of tiles, row by row
  int64_t examples, rows, tasks;
  int32_t columns;
  float* norms;   // of g, then of h: (2, rows)
  double* slots;  // value, magnitude: each (tasks, kWarps)
};

__device__ __forceinline__ float value_of(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ __forceinline__ int64_t example_of(const Tables& t, int64_t task) {
  int64_t low = 0, high = t.examples;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (t.first[middle] <= task ? low : high) = middle;
  }
  return low;
}

__global__ __launch_bounds__(kThreads, 1) void cross_tiles_kernel(const Tables tables) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t ring = shared_address(shared);
  const TiedHead& head = tables.head;
  const int64_t b = example_of(tables, blockIdx.x), begin = tables.offsets[b];
  const auto length = static_cast<int32_t>(tables.offsets[b + 1] - begin);
  const auto tiles = static_cast<int32_t>(tiles_of(length, kTile));
  const auto local = static_cast<int32_t>(blockIdx.x - tables.first[b]);
  const int32_t row = local / tiles * kTile, column = local % tiles * kTile;
  const int32_t steps = (tables.columns + kDepth - 1) / kDepth;
  const auto load = [&](int32_t s, uint32_t stage) {
    const int32_t left = tables.columns - s * kDepth;
    load_operand<DepthAlongRows>(stage, head.g + (begin + row) * head.g_stride + s * kDepth, head.g_stride,
                                 length - row, left);
    load_operand<DepthAlongRows>(stage + kOperandBytes,
                                 head.h + (begin + column) * head.h_stride + s * kDepth, head.h_stride,
                                 length - column, left);
  };

  Accumulators chain, sum;
  set_zero(sum);
  for (int32_t s = 0; s < kStages - 1; ++s) {
    if (s < steps) load(s, ring + static_cast<uint32_t>(s) * kStageBytes);
    commit_copies();
  }
  for (int32_t s = 0; s < steps; ++s) {
    wait_copies<kStages - 2>();
    __syncthreads();
    if (s + kStages - 1 < steps) load(s + kStages - 1, ring + (s + kStages - 1) % kStages * kStageBytes);
    commit_copies();
    const int32_t left = tables.columns - s * kDepth;
    stage_product<DepthAlongRows>(ring + s % kStages * kStageBytes,
                                  left >= kDepth ? kDepth / 16 : (left + 15) / 16, chain);
    add_to(sum, chain);
  }

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  double value = 0, magnitude = 0;
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Entry at = mma_entry(warp, lane, m, n, i);
        const int32_t t = row + at.row, u = column + at.column;
        if (t >= length || u >= length) continue;
        const double z = value_of(head.z[(begin + u) * head.z_stride + head.ids[begin + t]]);
        value += static_cast<double>(sum[m][n][i]) * z;
        magnitude +=
            static_cast<double>(tables.norms[begin + t]) * tables.norms[tables.rows + begin + u] * fabs(z);
      }
  value = warp_sum(value);
  magnitude = warp_sum(magnitude);
  if (lane != 0) return;
  double* slot = tables.slots + static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  slot[0] = DPFA_PLANT("cross_term_dropped") ? 0 : value;
  slot[tables.tasks * kWarps] = magnitude;
#else
  __trap();  // a term that was not computed must not pass for one
#endif
}

// One warp per row of g and of h.
__global__ void cross_norms_kernel(const Tables tables) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (warp >= 2 * tables.rows) return;
  const bool of_g = warp < tables.rows;
  const uint16_t* values = of_g ? tables.head.g + warp * tables.head.g_stride
                                : tables.head.h + (warp - tables.rows) * tables.head.h_stride;
  double sum = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x % 32); i < tables.columns; i += 32) {
    const double v = value_of(values[i]);
    sum += v * v;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) tables.norms[warp] = __double2float_ru(padded_norm(sum, tables.columns));
}

// One warp per example.
__global__ void cross_sums_kernel(const Tables tables, double* terms, double* magnitudes) {
  const int64_t b = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (b >= tables.examples) return;
  const int lane = threadIdx.x % 32;
  const double* slots = tables.slots + tables.first[b] * kWarps;
  const int64_t count = (tables.first[b + 1] - tables.first[b]) * kWarps;
  const double value = warp_sum(lane_sum(slots, count, lane));
  const double magnitude = warp_sum(lane_sum(slots + tables.tasks * kWarps, count, lane));
  if (lane != 0) return;
  terms[b] = value;
  magnitudes[b] = magnitude;
}

unsigned blocks_of_warps(int64_t warps) {
  return static_cast<unsigned>((warps * 32 + kThreads - 1) / kThreads);
}

}  // namespace

CrossTermPlan::CrossTermPlan(std::span<const int64_t> offsets, int64_t columns)
    : examples_(static_cast<int64_t>(offsets.size()) - 1), columns_(columns), offsets_(offsets) {
  DPFA_CHECK(!offsets.empty() && offsets[0] >= 0 && columns > 0 && columns <= int64_t{1} << 30, columns,
             " columns");
  std::vector<int64_t> first = {0};
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    DPFA_CHECK(offsets[b] <= offsets[b + 1], "offsets must not descend");
    const int64_t tiles = tiles_of(offsets[b + 1] - offsets[b], kTile);
    first.push_back(first.back() + tiles * tiles);
  }
  rows_ = offsets.back();
  tasks_ = first.back();
  DPFA_CHECK(tasks_ <= std::numeric_limits<int32_t>::max() && rows_ <= int64_t{1} << 30,
             "too many tokens in one plan");
  compute_capability();
  first_ = DeviceArray<int64_t>(std::span<const int64_t>(first));
  norms_ = DeviceArray<float>(2 * rows_);
  slots_ = DeviceArray<double>(2 * tasks_ * kWarps);
  allow_shared_memory(reinterpret_cast<const void*>(cross_tiles_kernel), kSharedBytes, "cross_tiles");
}

void CrossTermPlan::run(const TiedHead& head, double* terms, double* magnitudes, cudaStream_t stream) {
  DPFA_CHECK(head.g_stride % 8 == 0 && head.h_stride % 8 == 0 &&
                 reinterpret_cast<uintptr_t>(head.g) % 16 == 0 &&
                 reinterpret_cast<uintptr_t>(head.h) % 16 == 0,
             "rows must begin at multiples of 16 bytes: pad them");
  norms_.fill_bytes(unwritten_byte(), stream);
  slots_.fill_bytes(unwritten_byte(), stream);
  const Tables tables = {
      head,          offsets_.data(), first_.data(), examples_, rows_, tasks_, static_cast<int32_t>(columns_),
      norms_.data(), slots_.data()};
  if (tasks_ > 0) {
    cross_norms_kernel<<<blocks_of_warps(2 * rows_), kThreads, 0, stream>>>(tables);
    check_launch("cross_norms");
    cross_tiles_kernel<<<static_cast<unsigned>(tasks_), kThreads, kSharedBytes, stream>>>(tables);
    check_launch("cross_tiles");
  }
  if (examples_ > 0) {
    cross_sums_kernel<<<blocks_of_warps(examples_), kThreads, 0, stream>>>(tables, terms, magnitudes);
    check_launch("cross_sums");
  }
}

}  // namespace dpfa::kernels::cuda
