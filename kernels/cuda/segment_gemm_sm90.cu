// The wgmma path of products over tokens, for sm_90a alone: two warpgroups multiply, a third keeps a ring of
// tensor-map copies filled.
//
// A copy brings 64 rows whatever remains of the example. The rows beyond it, up to the next multiple of 16,
// are those of the next example: they are overwritten with zeros in shared memory before they are multiplied,
// so neither their numbers nor a NaN among them reaches the sum. Columns beyond the matrix arrive as zeros.
#include "kernels/cuda/segment_finish.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace dpfa::kernels::cuda {
namespace {

static_assert(kConsumers == kThreads);
constexpr int kParkedBytes = kTile * kTile * 4;
constexpr int kAlignment = kPatternBytes;
constexpr int kSharedBytes = kAlignment + kStages * kStageBytes + kParkedBytes + kBarrierBytes;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ void produce(const SegmentTables& tables, const ProductTask& task, const SegmentMaps& maps,
                        const StageRing& ring) {
  acquire_map(&maps.left);
  acquire_map(&maps.right);
  DepthStep step =
      active_step(tables, task.matrix, first_depth_step(tables.offsets, tables.examples, kDepth));
  for (uint32_t s = 0; step.example < tables.examples; ++s) {
    const uint32_t stage = ring.stage(s), full = ring.full(s);
    const int row = static_cast<int>(step.begin);
    ring.wait_empty(s);
    for (int half = 0; half < 2; ++half) {
      copy_tile(stage + half * kHalfOperand, &maps.left, task.row + 64 * half, row, full);
      copy_tile(stage + kOperandBytes + half * kHalfOperand, &maps.right, task.column + 64 * half, row, full);
    }
    step = following_step(tables, task.matrix, step);
  }
}

// Zeroes the rows [rows, end) of both operands; each is 128 bytes in each of their halves, in whatever order
// the swizzle put them.
__device__ __forceinline__ void clear_rows(uint32_t stage, int rows, int end) {
  constexpr int kChunks = 4 * 8;  // of 16 bytes, in a row of both halves of both operands
  for (int i = static_cast<int>(threadIdx.x); i < (end - rows) * kChunks; i += kConsumers) {
    const int row = rows + i / kChunks, half = i % kChunks / 8, chunk = i % 8;
    const uint32_t to = stage + static_cast<uint32_t>(half * kHalfOperand + row * 128 + chunk * 16);
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
  }
  // wgmma reads through another proxy; all consumers have written before any of them multiplies.
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

template <typename Finish>
__device__ void consume(const SegmentTables& tables, const ProductTask& task, const Finish& finish,
                        const StageRing& ring, int32_t* parked) {
  const uint32_t group = threadIdx.x / 128;
  float chain[kRegisters], sum[kRegisters];
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) chain[i] = sum[i] = 0;
  finish.begin(parked);
  DepthStep work =
      active_step(tables, task.matrix, first_depth_step(tables.offsets, tables.examples, kDepth));
  for (uint32_t s = 0; work.example < tables.examples; ++s) {
    const uint32_t stage = ring.stage(s);
    ring.wait_full(s);
    const int rows = static_cast<int>(work.rows), end = (rows + 15) / 16 * 16;
    if (rows < end) clear_rows(stage, rows, end);
    wgmma_begin();
    for (int k = 0; k < end / 16; ++k)
      wgmma<true>(chain, transposed_operand(stage + group * kHalfOperand + 2 * kPatternBytes * k),
                  transposed_operand(stage + kOperandBytes + 2 * kPatternBytes * k), k);
    wgmma_finish(chain);
    ring.release(s);
    const float scale = Finish::kOneSum ? tables.scales[work.example] : 1.0f;
    add_chain<Finish, WgmmaLayout>(scale, chain, sum);
    if (work.closes) {
      add_extra_rows<WgmmaLayout>(task, work.example, scale, sum);
      finish.template close<WgmmaLayout>(tables, task, work.example, sum, parked);
      if (!Finish::kOneSum) {
#pragma unroll
        for (int i = 0; i < kRegisters; ++i) sum[i] = 0;
      }
    }
    work = following_step(tables, task.matrix, work);
  }
  finish.template end<WgmmaLayout>(task, sum, parked);
}

#endif

template <typename Finish>
__global__ __launch_bounds__(kBlock, 1) void segment_wgmma_kernel(const SegmentTables tables,
                                                                  const SegmentMaps* maps,
                                                                  const Finish finish) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ unsigned char shared[];
  const uint32_t start = shared_address(shared);
  const uint32_t stages = (start + kAlignment - 1) / kAlignment * kAlignment;
  const StageRing ring = {stages, stages + kStages * kStageBytes + kParkedBytes};
  const ProductTask task(tables, blockIdx.x);
  ring.begin();
  if (threadIdx.x >= kConsumers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == kConsumers) produce(tables, task, maps[task.matrix], ring);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    int32_t* parked =
        reinterpret_cast<int32_t*>(shared + (stages - start) + kStages * kStageBytes) + threadIdx.x;
    consume(tables, task, finish, ring, parked);
  }
#else
  __trap();  // a product that was not computed must not pass for one
#endif
}

}  // namespace

SegmentMaps segment_maps(const SegmentProduct& p, int64_t rows) {
  return {tensor_map(p.left, p.left_stride, rows, p.rows, 64, kDepth),
          tensor_map(p.right, p.right_stride, rows, p.columns, 64, kDepth)};
}

template <typename Finish>
void launch_segment_wgmma(const SegmentTables& tables, const SegmentMaps* maps, const Finish& finish,
                          int64_t blocks, cudaStream_t stream) {
  allow_shared_memory(reinterpret_cast<const void*>(segment_wgmma_kernel<Finish>), kSharedBytes,
                      "segment_wgmma");
  segment_wgmma_kernel<Finish>
      <<<static_cast<unsigned>(blocks), kBlock, kSharedBytes, stream>>>(tables, maps, finish);
  check_launch("segment_wgmma");
}

#define DPFA_INSTANTIATE(Finish)                                                                      \
  template void launch_segment_wgmma<Finish>(const SegmentTables&, const SegmentMaps*, const Finish&, \
                                             int64_t, cudaStream_t);
DPFA_INSTANTIATE(Squares)
DPFA_INSTANTIATE(Materialise)
DPFA_INSTANTIATE(AddIntegers)
DPFA_INSTANTIATE(AddFloats)
#undef DPFA_INSTANTIATE

}  // namespace dpfa::kernels::cuda
