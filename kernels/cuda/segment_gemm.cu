// A block forms one 128 x 128 tile of one matrix for all examples in turn. The depth loop never crosses an
// example (tiles.h), so the accumulators hold one example's product when it closes. Chains of products are
// kDepth long as in the Gram norm: their results join the f32 sums in round to nearest (error_bound.h).
#include <limits>
#include <vector>

#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/scaled_sum.h"
#include "kernels/cuda/segment_gemm.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kParkedBytes = kTile * kTile * 4;
constexpr int kSharedBytes = kStages * kStageBytes + kParkedBytes;
constexpr int kBand = 8;  // tile rows that share the right operand in the second-level cache

struct Tables {
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

  __device__ ProductTask(const Tables& t, int64_t number) {
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
  __device__ __forceinline__ double* slot(const Tables& t, double* slots, int64_t example) const {
    const int64_t base = t.first_tile[matrix] * t.examples + example * tiles + local;
    return slots + base * kWarps + threadIdx.x / 32;
  }
};

__device__ __forceinline__ bool is_active(const Tables& t, int64_t matrix, int64_t example) {
  return t.active != nullptr ? t.active[matrix * t.examples + example] != 0 : t.scales[example] > 0;
}
__device__ __forceinline__ DepthStep active_step(const Tables& t, int64_t matrix, DepthStep step) {
  while (step.example < t.examples && !is_active(t, matrix, step.example))
    step = depth_step_from(t.offsets, t.examples, kDepth, step.example, t.offsets[step.example + 1]);
  return step;
}
__device__ __forceinline__ DepthStep following_step(const Tables& t, int64_t matrix, const DepthStep& step) {
  return active_step(t, matrix, next_depth_step(t.offsets, t.examples, kDepth, step));
}

__device__ __forceinline__ void load_step(const ProductTask& task, const DepthStep& step, uint32_t stage) {
  const SegmentProduct& p = *task.product;
  const auto rows = static_cast<int32_t>(step.rows);
  load_operand<DepthAcrossRows>(stage, p.left + step.begin * p.left_stride + task.row, p.left_stride, rows,
                                static_cast<int32_t>(p.rows - task.row));
  load_operand<DepthAcrossRows>(stage + kOperandBytes, p.right + step.begin * p.right_stride + task.column,
                                p.right_stride, rows, static_cast<int32_t>(p.columns - task.column));
}

// Calls body(register, row, column) for every sum of this thread that lies in the matrix.
template <typename Body>
__device__ __forceinline__ void for_each_entry(const ProductTask& task, const Body& body) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Entry at = mma_entry(warp, lane, m, n, i);
        if (task.holds(task.row + at.row, task.column + at.column))
          body((m * kFragments + n) * 4 + i, task.row + at.row, task.column + at.column);
      }
}

__device__ __forceinline__ float& entry_of(Accumulators& sum, int number) {
  return sum[number / (4 * kFragments)][number / 4 % kFragments][number % 4];
}

// Adds the example's extra rows, scaled, where they meet the tile.
__device__ __forceinline__ void add_extra_rows(const ProductTask& task, int64_t example, float scale,
                                               Accumulators& sum) {
  const ExtraRows& extra = task.product->extra;
  if (extra.ids == nullptr) return;
  const int64_t end = extra.first[example + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = task.row + mma_entry(warp, lane, m, 0, 2 * half).row;
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
      for (int n = 0; n < kFragments; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int64_t column = task.column + mma_entry(warp, lane, m, n, i).column;
          if (column < task.product->columns)
            sum[m][n][2 * half + i] =
                __fmaf_rn(scale, extra.rows[low * task.product->columns + column], sum[m][n][2 * half + i]);
        }
    }
}

// ---- What becomes of an example's product. `close` sees it once, `end` comes after the last example.

struct Squares {
  static constexpr bool kOneSum = false;  // the accumulators start anew with every example
  double* slots;
  __device__ __forceinline__ void begin(int32_t*) const {}
  __device__ __forceinline__ void close(const Tables& t, const ProductTask& task, int64_t example,
                                        Accumulators& sum, int32_t*) const {
    double squares = 0;
    for_each_entry(task, [&](int number, int64_t, int64_t) {
      const double v = entry_of(sum, number);
      squares = fma(v, v, squares);
    });
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) *task.slot(t, slots, example) = squares;
  }
  __device__ __forceinline__ void end(const ProductTask&, Accumulators&, const int32_t*) const {}
};

struct Materialise {
  static constexpr bool kOneSum = false;
  double* slots;
  uint16_t* gradients;
  int64_t stride;
  __device__ __forceinline__ void begin(int32_t*) const {}
  __device__ __forceinline__ void close(const Tables& t, const ProductTask& task, int64_t example,
                                        Accumulators& sum, int32_t*) const {
    uint16_t* gradient = gradients + example * stride + task.product->offset;
    double squares = 0;
    for_each_entry(task, [&](int number, int64_t row, int64_t column) {
      const uint16_t bits = to_bfloat16(entry_of(sum, number));
      gradient[row * task.product->columns + column] = bits;
      const double v = __uint_as_float(static_cast<uint32_t>(bits) << 16);
      squares = fma(v, v, squares);
    });
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) *task.slot(t, slots, example) = squares;
  }
  __device__ __forceinline__ void end(const ProductTask&, Accumulators&, const int32_t*) const {}
};

// The integers of all examples are added up in shared memory, every thread its own.
struct AddIntegers {
  static constexpr bool kOneSum = false;
  int32_t* sum_out;
  __device__ __forceinline__ void begin(int32_t* parked) const {
#pragma unroll
    for (int i = 0; i < 4 * kFragments * kFragments; ++i) parked[i * kThreads] = 0;
  }
  __device__ __forceinline__ void close(const Tables& t, const ProductTask& task, int64_t example,
                                        Accumulators& sum, int32_t* parked) const {
    const float scale = t.scales[example];
    for_each_entry(task, [&](int number, int64_t, int64_t) {
      parked[number * kThreads] += scaled_integer(scale, entry_of(sum, number));
    });
  }
  __device__ __forceinline__ void end(const ProductTask& task, Accumulators&, const int32_t* parked) const {
    for_each_entry(task, [&](int number, int64_t row, int64_t column) {
      sum_out[task.product->offset + row * task.product->columns + column] += parked[number * kThreads];
    });
  }
};

struct AddFloats {
  static constexpr bool kOneSum = true;
  float* sum_out;
  __device__ __forceinline__ void begin(int32_t*) const {}
  __device__ __forceinline__ void close(const Tables&, const ProductTask&, int64_t, Accumulators&,
                                        int32_t*) const {}
  __device__ __forceinline__ void end(const ProductTask& task, Accumulators& sum, const int32_t*) const {
    for_each_entry(task, [&](int number, int64_t row, int64_t column) {
      float& out = sum_out[task.product->offset + row * task.product->columns + column];
      out = __fadd_rn(out, entry_of(sum, number));
    });
  }
};

template <typename Finish>
__global__ __launch_bounds__(kThreads, 1) void segment_gemm_kernel(const Tables tables, const Finish finish) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t ring = shared_address(shared);
  int32_t* parked = reinterpret_cast<int32_t*>(shared + kStages * kStageBytes) + threadIdx.x;
  const ProductTask task(tables, blockIdx.x);
  DepthStep work =
      active_step(tables, task.matrix, first_depth_step(tables.offsets, tables.examples, kDepth));
  DepthStep load = work;

  Accumulators chain, sum;
  set_zero(sum);
  finish.begin(parked);
  for (uint32_t s = 0; s + 1 < kStages; ++s) {
    if (load.example < tables.examples) {
      load_step(task, load, ring + s * kStageBytes);
      load = following_step(tables, task.matrix, load);
    }
    commit_copies();
  }
  uint32_t stage = 0, ahead = kStages - 1;
  while (work.example < tables.examples) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the step's operands are there, and nobody reads the stage that is filled next
    if (load.example < tables.examples) {
      load_step(task, load, ring + ahead * kStageBytes);
      load = following_step(tables, task.matrix, load);
    }
    commit_copies();
    stage_product<DepthAcrossRows>(ring + stage * kStageBytes, static_cast<int>(tiles_of(work.rows, 16)),
                                   chain);
    const float scale = Finish::kOneSum ? tables.scales[work.example] : 1.0f;
#pragma unroll
    for (int m = 0; m < kFragments; ++m)
#pragma unroll
      for (int n = 0; n < kFragments; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sum[m][n][i] = Finish::kOneSum ? add_scaled(sum[m][n][i], scale, chain[m][n][i])
                                         : __fadd_rn(sum[m][n][i], chain[m][n][i]);
    if (work.closes) {
      add_extra_rows(task, work.example, scale, sum);
      finish.close(tables, task, work.example, sum, parked);
      if (!Finish::kOneSum) set_zero(sum);
    }
    work = following_step(tables, task.matrix, work);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    ahead = ahead + 1 == kStages ? 0 : ahead + 1;
  }
  finish.end(task, sum, parked);
#else
  __trap();  // a product that was not computed must not pass for one
#endif
}

// One warp per matrix and example. An example without tokens has no slot to add.
__global__ void sum_slots_kernel(const Tables tables, const double* slots, double* squares) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (warp >= tables.matrices * tables.examples || tables.active[warp] == 0) return;
  const int64_t matrix = warp / tables.examples, b = warp % tables.examples;
  const int64_t tiles = tables.first_tile[matrix + 1] - tables.first_tile[matrix];
  const bool empty = tables.offsets[b] == tables.offsets[b + 1];
  const double* own = slots + (tables.first_tile[matrix] * tables.examples + b * tiles) * kWarps;
  const double sum = warp_sum(empty ? 0.0 : lane_sum(own, tiles * kWarps, threadIdx.x % 32));
  if (threadIdx.x % 32 == 0) squares[warp] = sum;
}

// One thread per element of any matrix. What an example without tokens left in memory is not its gradient.
__global__ void add_materialised_kernel(const Tables tables, const int64_t* first_element,
                                        const uint16_t* gradients, int64_t stride, int32_t* sum) {
  const int64_t element = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (element >= first_element[tables.matrices]) return;
  const int64_t matrix = last_at_most(first_element, tables.matrices, element);
  const int64_t at = tables.products[matrix].offset + element - first_element[matrix];
  int32_t total = 0;
  for (int64_t b = 0; b < tables.examples; ++b) {
    if (!(tables.scales[b] > 0) || tables.offsets[b] == tables.offsets[b + 1]) continue;
    const float v = __uint_as_float(static_cast<uint32_t>(gradients[b * stride + at]) << 16);
    total += scaled_integer(tables.scales[b], v);
  }
  sum[at] += total;
}

bool is_aligned(const uint16_t* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

SegmentGemmPlan::SegmentGemmPlan(std::span<const SegmentProduct> products, std::span<const int64_t> offsets)
    : matrices_(static_cast<int64_t>(products.size())),
      examples_(static_cast<int64_t>(offsets.size()) - 1),
      products_(products),
      offsets_(offsets) {
  DPFA_CHECK(!offsets.empty() && offsets[0] >= 0, "offsets of the examples are missing");
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    DPFA_CHECK(offsets[b] <= offsets[b + 1], "offsets must not descend");
  std::vector<int64_t> first_tile = {0}, first_element = {0};
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max() / 2;
  for (const SegmentProduct& p : products) {
    DPFA_CHECK(p.rows <= kLargest && p.columns <= kLargest, "a matrix wider than 2^30");
    DPFA_CHECK(p.rows > 0 && p.columns > 0 && p.left_stride >= p.rows && p.right_stride >= p.columns, p.rows,
               " x ", p.columns, " with strides ", p.left_stride, " and ", p.right_stride);
    DPFA_CHECK(is_aligned(p.left) && is_aligned(p.right) && p.left_stride % 8 == 0 && p.right_stride % 8 == 0,
               "rows must begin at multiples of 16 bytes: pad them");
    first_tile.push_back(first_tile.back() + tiles_of(p.rows, kTile) * tiles_of(p.columns, kTile));
    first_element.push_back(first_element.back() + p.rows * p.columns);
  }
  tiles_ = first_tile.back();
  elements_ = first_element.back();
  DPFA_CHECK(tiles_ <= std::numeric_limits<int32_t>::max(), "too many tiles in one plan");
  first_tile_ = DeviceArray<int64_t>(std::span<const int64_t>(first_tile));
  first_element_ = DeviceArray<int64_t>(std::span<const int64_t>(first_element));
  slots_ = DeviceArray<double>(tiles_ * examples_ * kWarps);
  compute_capability();
}

template <typename Finish>
void SegmentGemmPlan::launch(const uint8_t* active, const float* scales, const Finish& finish,
                             cudaStream_t stream) {
  if (tiles_ == 0 || examples_ == 0) return;
  const Tables tables = {products_.data(), offsets_.data(), first_tile_.data(), matrices_, examples_,
                         active,           scales};
  allow_shared_memory(reinterpret_cast<const void*>(segment_gemm_kernel<Finish>), kSharedBytes,
                      "segment_gemm");
  segment_gemm_kernel<Finish>
      <<<static_cast<unsigned>(tiles_), kThreads, kSharedBytes, stream>>>(tables, finish);
  check_launch("segment_gemm");
}

void SegmentGemmPlan::sum_slots(const uint8_t* active, double* squares, cudaStream_t stream) {
  const int64_t results = matrices_ * examples_;
  if (results == 0) return;
  check(cudaMemsetAsync(squares, unwritten_byte(), static_cast<size_t>(results) * sizeof(double), stream),
        "fill of squares");
  const Tables tables = {products_.data(), offsets_.data(), first_tile_.data(), matrices_, examples_,
                         active,           nullptr};
  const auto blocks = static_cast<unsigned>((results * 32 + kThreads - 1) / kThreads);
  sum_slots_kernel<<<blocks, kThreads, 0, stream>>>(tables, slots_.data(), squares);
  check_launch("sum_slots");
}

void SegmentGemmPlan::squares(const uint8_t* active, double* squares, cudaStream_t stream) {
  slots_.fill_bytes(unwritten_byte(), stream);
  launch(active, nullptr, Squares{slots_.data()}, stream);
  sum_slots(active, squares, stream);
}

void SegmentGemmPlan::materialise(const uint8_t* active, uint16_t* gradients, int64_t stride, double* squares,
                                  cudaStream_t stream) {
  slots_.fill_bytes(unwritten_byte(), stream);
  launch(active, nullptr, Materialise{slots_.data(), gradients, stride}, stream);
  sum_slots(active, squares, stream);
}

void SegmentGemmPlan::add_integers(const float* scales, int32_t* sum, cudaStream_t stream) {
  launch(nullptr, scales, AddIntegers{sum}, stream);
}

void SegmentGemmPlan::add_materialised(const float* scales, const uint16_t* gradients, int64_t stride,
                                       int32_t* sum, cudaStream_t stream) {
  if (elements_ == 0 || examples_ == 0) return;
  const Tables tables = {products_.data(), offsets_.data(), first_tile_.data(), matrices_, examples_,
                         nullptr,          scales};
  const auto blocks = static_cast<unsigned>((elements_ + kThreads - 1) / kThreads);
  add_materialised_kernel<<<blocks, kThreads, 0, stream>>>(tables, first_element_.data(), gradients, stride,
                                                           sum);
  check_launch("add_materialised");
}

void SegmentGemmPlan::add_floats(const float* factors, float* sum, cudaStream_t stream) {
  launch(nullptr, factors, AddFloats{sum}, stream);
}

}  // namespace dpfa::kernels::cuda
