// The wgmma path of the Gram norm, for sm_90a alone: two warpgroups multiply, a third keeps a ring of
// tensor-map copies filled.
//
// A copy knows rows of the whole matrix, not of one example, so a tile's last rows may be those of the next
// example; GramTask::add leaves their entries out. Columns beyond the matrix arrive as zeros.
#include "kernels/cuda/gram_tiles.cuh"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kStages = 4;
constexpr int kConsumers = 256;           // two warpgroups of 64 rows each
constexpr int kBlock = kConsumers + 128;  // and the one that copies
constexpr int kParkedBytes = kTile * kTile * 4;
constexpr int kAlignment = 1024;  // of the 128-byte swizzle
constexpr int kScratch = 32;      // of a thread's sums, while their errors are bounded
constexpr int kScratchBytes = kScratch * kConsumers * 4;
constexpr int kSharedBytes =
    kAlignment + kStages * kStageBytes + kParkedBytes + kScratchBytes + 2 * kStages * 8;
[[maybe_unused]] constexpr int kRegisters = 64;  // of a thread's 64 x 128 share of the sums

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\n"
      "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      " @done bra finished;\n bra again;\n"
      "finished:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap* map, int column, int row,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// Shared-memory operand with the depth along rows of 128 bytes, 128-byte swizzle: eight rows are 1024 bytes
// apart.
__device__ __forceinline__ uint64_t operand(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

// d (64 x 128) = a b^T, or += where `add`, 16 deep.
__device__ __forceinline__ void wgmma(float (&d)[kRegisters], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n .reg .pred add;\n setp.ne.b32 add, %66, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// All products are done; the registers may be read from here on, and not before.
__device__ __forceinline__ void wgmma_finish(float (&d)[kRegisters]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

__device__ void produce(const GramTask& task, const GramMaps& maps, uint32_t ring, uint32_t full,
                        uint32_t empty) {
  const GramShape shape = shape_of(*task.matrix);
  const int32_t steps = shape.steps();
  const int i = static_cast<int>(task.begin + task.row);
  const int j = static_cast<int>(task.begin + task.column);
  for (int32_t s = 0; s < steps; ++s) {
    const uint32_t slot = static_cast<uint32_t>(s % kStages), round = static_cast<uint32_t>(s / kStages);
    if (round > 0) barrier_wait(empty + 8 * slot, (round - 1) & 1);
    const GramStep step = gram_step(shape, s);
    const CUtensorMap* map = step.of_gradient ? &maps.g : &maps.x;
    const uint32_t stage = ring + slot * kStageBytes;
    barrier_expect(full + 8 * slot, kStageBytes);
    copy_tile(stage, map, step.column, i, full + 8 * slot);
    copy_tile(stage + kOperandBytes, map, step.column, j, full + 8 * slot);
  }
}

__device__ void consume(const GramTables& tables, const GramTask& task, uint32_t ring, float* parked,
                        float* scratch, uint32_t full, uint32_t empty) {
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
  const GramShape shape = shape_of(*task.matrix);
  const int32_t steps = shape.steps();
  float chain[kRegisters], sum[kRegisters];
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) chain[i] = sum[i] = 0;
  for (int32_t s = 0; s < steps; ++s) {
    const uint32_t slot = static_cast<uint32_t>(s % kStages), round = static_cast<uint32_t>(s / kStages);
    const uint32_t stage = ring + slot * kStageBytes;
    barrier_wait(full + 8 * slot, round & 1);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k)
      wgmma(chain, operand(stage + group * (kOperandBytes / 2) + 32 * k),
            operand(stage + kOperandBytes + 32 * k), k);
    wgmma_finish(chain);
    if (thread % 32 == 0) barrier_arrive(empty + 8 * slot);  // each warp: it has read the stage
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
  const uint32_t ring = (start + kAlignment - 1) / kAlignment * kAlignment;
  const uint32_t full = ring + kStages * kStageBytes + kParkedBytes + kScratchBytes,
                 empty = full + 8 * kStages;
  const GramTask task(tables, blockIdx.x);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, kConsumers / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == kConsumers) {
      const int64_t matrix = blockIdx.x / tables.tasks;
      produce(task, tables.maps[matrix], ring, full, empty);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    float* parked = reinterpret_cast<float*>(shared + (ring - start) + kStages * kStageBytes) + threadIdx.x;
    consume(tables, task, ring, parked, parked + kTile * kTile, full, empty);
  }
#else
  __trap();  // a norm that was not computed must not pass for one
#endif
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, without linking the driver.
EncodeTiled encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "look for cuTensorMapEncodeTiled in the driver");
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw Unsupported("the driver has no tensor maps (cuTensorMapEncodeTiled): install a driver for CUDA 13");
  return reinterpret_cast<EncodeTiled>(function);
}

CUtensorMap map_of(const uint16_t* data, int64_t stride, int64_t rows, int64_t columns) {
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[2] = {kDepth, kTile}, steps[2] = {1, 1};
  const CUresult result =
      encode_tiled()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(data), sizes, strides,
                     box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  DPFA_CHECK(result == CUDA_SUCCESS, "tensor map of ", rows, " x ", columns, ": error ",
             static_cast<int>(result));
  return map;
}

}  // namespace

GramMaps gram_maps(const GramMatrix& m, int64_t rows) {
  return {map_of(m.x, m.x_stride, rows, m.inputs), map_of(m.g, m.g_stride, rows, m.outputs)};
}

void prepare_gram_wgmma() {
  allow_shared_memory(reinterpret_cast<const void*>(gram_wgmma_kernel), kSharedBytes, "gram_wgmma");
}

cudaError_t launch_gram_wgmma(const GramTables& tables, int64_t blocks, cudaStream_t stream) {
  gram_wgmma_kernel<<<static_cast<unsigned>(blocks), kBlock, kSharedBytes, stream>>>(tables);
  return cudaGetLastError();
}

}  // namespace dpfa::kernels::cuda
