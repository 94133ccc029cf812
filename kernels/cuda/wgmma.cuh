// The instructions of sm_90a behind a tile product: barriers that count bytes, copies by tensor maps, and
// wgmma m64n128k16 on bfloat16 (PTX ISA 9.0, sections 9.7.13 and 9.7.16). Empty for other architectures.
#pragma once

#include <cuda.h>

#include "kernels/cuda/mma.cuh"

namespace dpfa::kernels::cuda {

inline constexpr int kRegisters = 64;  // of a thread's 64 x 128 share of the sums

// A block: two warpgroups that multiply 64 rows each, and one whose first thread copies.
inline constexpr int kConsumers = 256, kBlock = kConsumers + 128;
inline constexpr int kStages = 4;
inline constexpr int kBarrierBytes = 2 * kStages * 8;

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
// A map lies in device memory, where the host copied it: a block's copies see it after this and not before,
// whatever lay at its address before (PTX ISA 9.0, memory consistency model: the tensormap proxy is not
// acquired at the start of a kernel). The copying thread calls it for each map.
__device__ __forceinline__ void acquire_map(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}
__device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap* map, int column, int row,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The stages between the copying thread, which fills them in turn, and the consumers, which empty them. Steps
// count from 0; step s uses stage s modulo kStages.
struct StageRing {
  uint32_t stages, barriers;  // in shared memory: kStages x kStageBytes, kBarrierBytes

  __device__ uint32_t stage(uint32_t s) const { return stages + s % kStages * kStageBytes; }
  __device__ uint32_t full(uint32_t s) const { return barriers + 8 * (s % kStages); }
  __device__ uint32_t empty(uint32_t s) const { return full(s) + 8 * kStages; }

  // All threads of the block call it, before anything else of the ring.
  __device__ void begin() const {
    if (threadIdx.x == 0) {
      for (uint32_t s = 0; s < kStages; ++s) {
        barrier_init(full(s), 1);
        barrier_init(empty(s), kConsumers / 32);
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
  }
  // The copying thread, before its copies of step s: the stage is empty and expects kStageBytes.
  __device__ void wait_empty(uint32_t s) const {
    const uint32_t round = s / kStages;
    if (round > 0) barrier_wait(empty(s), (round - 1) & 1);
    barrier_expect(full(s), kStageBytes);
  }
  // Consumers: the stage holds step s; then each thread: it has read it.
  __device__ void wait_full(uint32_t s) const { barrier_wait(full(s), s / kStages & 1); }
  __device__ void release(uint32_t s) const {
    if (threadIdx.x % 32 == 0) barrier_arrive(empty(s));
  }
};

// Shared-memory operand with the depth along rows of 128 bytes, 128-byte swizzle: eight rows are 1024 bytes
// apart.
__device__ __forceinline__ uint64_t operand(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | uint64_t{1} << 16 |
         uint64_t{kPatternBytes >> 4} << 32 | uint64_t{1} << 62;
}

// Operand whose rows of 128 bytes are the depth, 64 numbers of the tile's side in each, 128-byte swizzle:
// eight rows are 1024 bytes apart, the next 64 numbers of the side (of the right operand alone) kHalfOperand
// bytes.
__device__ __forceinline__ uint64_t transposed_operand(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | uint64_t{kHalfOperand >> 4} << 16 |
         uint64_t{kPatternBytes >> 4} << 32 | uint64_t{1} << 62;
}

// d (64 x 128) = a b^T, or += where `add`, 16 deep; kTransposed: both are transposed_operand.
template <bool kTransposed>
__device__ __forceinline__ void wgmma(float (&d)[kRegisters], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n .reg .pred add;\n setp.ne.b32 add, %66, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, %67, %67;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(add), "n"(kTransposed ? 1 : 0));
}
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// All products are done; the registers may be read from here on, and not before.
__device__ __forceinline__ void wgmma_finish(float (&d)[kRegisters]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#endif

}  // namespace dpfa::kernels::cuda
