// The wgmma path of the Gram norm, for sm_90a alone: two warpgroups multiply, a third keeps a ring of
// tensor-map copies filled.
//
// A copy knows rows of the whole matrix, not of one example, so a tile's last rows may be those of the next
// example; GramTask::add leaves their entries out. Columns beyond the matrix arrive as zeros.
#include "kernels/cuda/gram_tiles.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kParkedBytes = kTile * kTile * 4;
constexpr int kAlignment = 1024;  // of the 128-byte swizzle
constexpr int kScratch = 32;      // of a thread's sums, while their errors are bounded
constexpr int kScratchBytes = kScratch * kConsumers * 4;
constexpr int kSharedBytes =
    kAlignment + kStages * kStageBytes + kParkedBytes + kScratchBytes + kBarrierBytes;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ void produce(const GramTask& task, const GramMaps& maps, const StageRing& ring) {
  const GramShape shape = shape_of(*task.matrix);
  const int32_t steps = shape.steps();
  const int i = static_cast<int>(task.begin + task.row);
  const int j = static_cast<int>(task.begin + task.column);
  acquire_map(&maps.x);
  acquire_map(&maps.g);
  for (int32_t s = 0; s < steps; ++s) {
    const GramStep step = gram_step(shape, s);
    const CUtensorMap* map = step.of_gradient ? &maps.g : &maps.x;
    const uint32_t stage = ring.stage(s), full = ring.full(s);
    ring.wait_empty(s);
    copy_tile(stage, map, step.column, i, full);
    copy_tile(stage + kOperandBytes, map, step.column, j, full);
  }
}

__device__ void consume(const GramTables& tables, const GramTask& task, const StageRing& ring, float* parked,
                        float* scratch) {
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
  const GramShape shape = shape_of(*task.matrix);
  const int32_t steps = shape.steps();
  float chain[kRegisters], sum[kRegisters];
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) chain[i] = sum[i] = 0;
  for (int32_t s = 0; s < steps; ++s) {
    const uint32_t stage = ring.stage(s);
    ring.wait_full(s);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k)
      wgmma<false>(chain, operand(stage + group * (kOperandBytes / 2) + 32 * k),
                   operand(stage + kOperandBytes + 32 * k), k);
    wgmma_finish(chain);
    ring.release(s);
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) sum[i] = __fadd_rn(sum[i], chain[i]);
    const GramStep step = gram_step(shape, s);
    if (!step.closes) continue;
    if (step.of_gradient) {
      GramSums sums;
      const float* g_norms = task.g_norms(tables, step.group);
      const int32_t row = task.row + 64 * group + wgmma_entry(thread, 0).row;
      const RowNorms rows[2] = {task.norms(g_norms, row), task.norms(g_norms, row + 8)};
      RowErrors errors[2];
#pragma unroll
      for (int part = 0; part < kRegisters; part += kScratch) {
#pragma unroll
        for (int i = 0; i < kScratch; ++i) scratch[i * kConsumers] = sum[part + i];
#pragma unroll 1  // with all entries at once in registers some would spill
        for (int i = 0; i < kScratch; i += 4)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int at = part + i + e;
            const RowNorms column = task.norms(g_norms, task.column + wgmma_entry(thread, at).column);
            task.add(rows[e / 2], column, parked[at * kConsumers], scratch[(i + e) * kConsumers], sums,
                     errors[e / 2]);
          }
      }
      task.close_row(rows[0], errors[0], sums);
      task.close_row(rows[1], errors[1], sums);
      task.store(tables, step.group, threadIdx.x / 32, sums);
    } else {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) parked[i * kConsumers] = sum[i];
    }
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) sum[i] = 0;
  }
}

#endif

__global__ __launch_bounds__(kBlock, 1) void gram_wgmma_kernel(const GramTables tables) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if (DPFA_PLANT("kernel_body_empty")) return;
  extern __shared__ unsigned char shared[];
  const uint32_t start = shared_address(shared);
  const uint32_t stages = (start + kAlignment - 1) / kAlignment * kAlignment;
  const StageRing ring = {stages, stages + kStages * kStageBytes + kParkedBytes + kScratchBytes};
  const GramTask task(tables, blockIdx.x);
  ring.begin();
  if (threadIdx.x >= kConsumers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == kConsumers) {
      const int64_t matrix = blockIdx.x / tables.tasks;
      produce(task, tables.maps[matrix], ring);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    float* parked = reinterpret_cast<float*>(shared + (stages - start) + kStages * kStageBytes) + threadIdx.x;
    consume(tables, task, ring, parked, parked + kTile * kTile);
  }
#else
  __trap();  // a norm that was not computed must not pass for one
#endif
}

}  // namespace

GramMaps gram_maps(const GramMatrix& m, int64_t rows) {
  return {tensor_map(m.x, m.x_stride, rows, m.inputs, kDepth, kTile),
          tensor_map(m.g, m.g_stride, rows, m.outputs, kDepth, kTile)};
}

void prepare_gram_wgmma() {
  allow_shared_memory(reinterpret_cast<const void*>(gram_wgmma_kernel), kSharedBytes, "gram_wgmma");
}

cudaError_t launch_gram_wgmma(const GramTables& tables, int64_t blocks, cudaStream_t stream) {
  gram_wgmma_kernel<<<static_cast<unsigned>(blocks), kBlock, kSharedBytes, stream>>>(tables);
  return cudaGetLastError();
}

}  // namespace dpfa::kernels::cuda
