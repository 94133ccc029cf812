// The instructions behind a tile product: asynchronous copies, ldmatrix, mma.sync m16n8k16 on bfloat16 (sm_80
// and later).
#pragma once

#include "kernels/cuda/tile_layout.h"

namespace dpfa::kernels::cuda {

using Accumulators = float[kFragments][kFragments][4];

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies `bytes` (0..16) and zeroes the rest of 16. Nothing is read where bytes is 0.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void set_zero(Accumulators& acc) {
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[m][n][i] = 0;
}

// sum += chain, to nearest: the end of a chain of products.
__device__ __forceinline__ void add_to(Accumulators& sum, const Accumulators& chain) {
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][n][i] = __fadd_rn(sum[m][n][i], chain[m][n][i]);
}

// acc = the product of the two operands in the stage at `stage`, `depth16` x 16 deep.
template <class Layout>
__device__ __forceinline__ void stage_product(uint32_t stage, int depth16, Accumulators& acc) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  set_zero(acc);
#pragma unroll 2                       // operands of more fragments at a time would not fit the registers
  for (int k = 0; k < depth16; ++k) {  // the rest of the stage is zero
    uint32_t right[kFragments / 2][4];
#pragma unroll
    for (int n = 0; n < kFragments / 2; ++n)
      load_matrices<Layout::kTransposed>(right[n], stage + kOperandBytes + Layout::right(warp, n, k, lane));
#pragma unroll
    for (int m = 0; m < kFragments; ++m) {
      uint32_t left[4];
      load_matrices<Layout::kTransposed>(left, stage + Layout::left(warp, m, k, lane));
#pragma unroll
      for (int n = 0; n < kFragments; ++n)
        mma(acc[m][n], left, right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]);
    }
  }
}

// Copies one operand of a step into `to`: rows [0, rows) x columns [0, columns) from `from`, zeros elsewhere.
// `from` and `stride` (in numbers) are multiples of 8 numbers.
template <class Layout>
__device__ __forceinline__ void load_operand(uint32_t to, const uint16_t* from, int64_t stride, int32_t rows,
                                             int32_t columns) {
#pragma unroll
  for (int i = 0; i < kChunksPerThread; ++i) {
    const Chunk c = chunk_of(threadIdx.x, i, Layout::kChunksPerRow);
    const int bytes = c.row < rows ? chunk_bytes(columns - 8 * c.chunk) : 0;
    copy_async(to + chunk_offset(c.row, c.chunk, Layout::kChunksPerRow),
               bytes > 0 ? from + c.row * stride + 8 * c.chunk : from, bytes);
  }
}

__device__ __forceinline__ double warp_sum(double v) {  // the order of tiles.h, in lane 0
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) v += __shfl_down_sync(0xFFFFFFFFu, v, half);
  return v;
}

}  // namespace dpfa::kernels::cuda
