// A block forms one 128 x 128 tile of one matrix for all examples in turn. The depth loop never crosses an
// example (tiles.h), so the accumulators hold one example's product when it closes. Chains of products are
// kDepth long as in the Gram norm: their results join the f32 sums in round to nearest (error_bound.h).
#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/segment_finish.cuh"
#include "kernels/cuda/tensor_map.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kParkedBytes = kTile * kTile * 4;
constexpr int kSharedBytes = kStages * kStageBytes + kParkedBytes;

__device__ __forceinline__ void load_step(const ProductTask& task, const DepthStep& step, uint32_t stage) {
  const SegmentProduct& p = *task.product;
  const auto rows = static_cast<int32_t>(step.rows);
  load_operand<DepthAcrossRows>(stage, p.left + step.begin * p.left_stride + task.row, p.left_stride, rows,
                                static_cast<int32_t>(p.rows - task.row));
  load_operand<DepthAcrossRows>(stage + kOperandBytes, p.right + step.begin * p.right_stride + task.column,
                                p.right_stride, rows, static_cast<int32_t>(p.columns - task.column));
}

template <typename Finish>
__global__ __launch_bounds__(kThreads, 1) void segment_gemm_kernel(const SegmentTables tables,
                                                                   const Finish finish) {
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
    add_chain<Finish, MmaLayout>(scale, chain, sum);
    if (work.closes) {
      add_extra_rows<MmaLayout>(task, work.example, scale, sum);
      finish.template close<MmaLayout>(tables, task, work.example, sum, parked);
      if (!Finish::kOneSum) set_zero(sum);
    }
    work = following_step(tables, task.matrix, work);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    ahead = ahead + 1 == kStages ? 0 : ahead + 1;
  }
  finish.template end<MmaLayout>(task, sum, parked);
#else
  __trap();  // a product that was not computed must not pass for one
#endif
}

// One warp per matrix and example. An example without tokens has no slot to add.
__global__ void sum_slots_kernel(const SegmentTables tables, const double* slots, double* squares) {
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
__global__ void add_materialised_kernel(const SegmentTables tables, const int64_t* first_element,
                                        const uint16_t* gradients, int32_t* sum) {
  const int64_t element = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t elements = first_element[tables.matrices];
  if (element >= elements) return;
  const int64_t matrix = last_at_most(first_element, tables.matrices, element);
  int32_t total = 0;
  for (int64_t b = 0; b < tables.examples; ++b) {
    if (!(tables.scales[b] > 0) || tables.offsets[b] == tables.offsets[b + 1]) continue;
    const float v = __uint_as_float(static_cast<uint32_t>(gradients[b * elements + element]) << 16);
    total += scaled_integer(tables.scales[b], v);
  }
  sum[tables.products[matrix].offset + element - first_element[matrix]] += total;
}

bool is_aligned(const uint16_t* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool wgmma_can(const SegmentProduct& p) { return std::max(p.left_stride, p.right_stride) < kMapStrides; }

}  // namespace

SegmentGemmPlan::SegmentGemmPlan(std::span<const SegmentProduct> products, std::span<const int64_t> offsets,
                                 std::optional<TensorPath> path)
    : path_(choose_path(path, std::all_of(products.begin(), products.end(), wgmma_can),
                        "strides below 2^39 numbers")),
      matrices_(static_cast<int64_t>(products.size())),
      examples_(static_cast<int64_t>(offsets.size()) - 1),
      products_(products),
      offsets_(offsets) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max() / 2;
  DPFA_CHECK(!offsets.empty() && offsets[0] >= 0, "offsets of the examples are missing");
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    DPFA_CHECK(offsets[b] <= offsets[b + 1], "offsets must not descend");
  DPFA_CHECK(offsets.back() <= kLargest, "more than 2^30 tokens in one plan");
  std::vector<int64_t> first_tile = {0}, first_element = {0};
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
  if (path_ == TensorPath::kMmaSync) return;
  std::vector<uint8_t> bytes(products.size() * sizeof(SegmentMaps));
  for (size_t i = 0; i < products.size() && offsets.back() > 0; ++i) {
    const SegmentMaps maps = segment_maps(products[i], offsets.back());
    std::memcpy(bytes.data() + i * sizeof(maps), &maps, sizeof(maps));
  }
  maps_ = DeviceArray<uint8_t>(std::span<const uint8_t>(bytes));
}

template <typename Finish>
void SegmentGemmPlan::launch(const uint8_t* active, const float* scales, const Finish& finish,
                             cudaStream_t stream) {
  if (tiles_ == 0 || examples_ == 0) return;
  const SegmentTables tables = {products_.data(), offsets_.data(), first_tile_.data(), matrices_, examples_,
                                active,           scales};
  if (path_ == TensorPath::kWgmma) {
    launch_segment_wgmma(tables, reinterpret_cast<const SegmentMaps*>(maps_.data()), finish, tiles_, stream);
    return;
  }
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
  const SegmentTables tables = {products_.data(), offsets_.data(), first_tile_.data(), matrices_, examples_,
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

void SegmentGemmPlan::materialise(const uint8_t* active, uint16_t* gradients, double* squares,
                                  cudaStream_t stream) {
  slots_.fill_bytes(unwritten_byte(), stream);
  launch(active, nullptr, Materialise{slots_.data(), gradients, elements_, first_element_.data()}, stream);
  sum_slots(active, squares, stream);
}

void SegmentGemmPlan::add_integers(const float* scales, int32_t* sum, cudaStream_t stream) {
  launch(nullptr, scales, AddIntegers{sum}, stream);
}

void SegmentGemmPlan::add_materialised(const float* scales, const uint16_t* gradients, int32_t* sum,
                                       cudaStream_t stream) {
  if (elements_ == 0 || examples_ == 0) return;
  const SegmentTables tables = {products_.data(), offsets_.data(), first_tile_.data(), matrices_, examples_,
                                nullptr,          scales};
  const auto blocks = static_cast<unsigned>((elements_ + kThreads - 1) / kThreads);
  add_materialised_kernel<<<blocks, kThreads, 0, stream>>>(tables, first_element_.data(), gradients, sum);
  check_launch("add_materialised");
}

void SegmentGemmPlan::add_floats(const float* factors, float* sum, cudaStream_t stream) {
  launch(nullptr, factors, AddFloats{sum}, stream);
}

}  // namespace dpfa::kernels::cuda
