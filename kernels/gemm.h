// Products of matrices on tiles: LibTorch's small-matrix kernel (oneDNN brgemm) under our own packing and
// split.
//
// In f32 an element of a product depends on its row of a, its column of b and nothing else: not on the number
// of rows, the other rows, its place among them, or the threads. (Every tile runs the whole depth in the same
// blocks and the kernel keeps one accumulator per element; privacy::Clipper::self_test checks it for the
// run's own shapes.) bf16 and f64 go to at::mm, which promises no such thing.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace dpfa::kernels {

// out (m, n) = a (m, k) b (k, n) + bias (n) in every row where it is defined, by all threads. One dtype
// throughout: f32, bf16 or f64. a and out are row-major, b is row-major or the transposed view of such; rows
// at any stride.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor& out, const at::Tensor& bias = {});

// out (m, n) = a^T b, added to what out holds where `accumulate`; a (k, m), b (k, n) row-major, by all
// threads.
void multiply_transposed(const at::Tensor& a, const at::Tensor& b, bool accumulate, at::Tensor& out);

// The same by the calling thread alone, for callers that parallelise over tiles, best of kTileRows x
// kTileColumns: 192 KB of a product. T f32 or bf16, whose operands are widened on their way into the cache:
// products are exact, sums run in f32. Strides in elements.
inline constexpr int64_t kTileRows = 128;
inline constexpr int64_t kTileColumns = 384;
template <typename T>
void multiply_transposed_tile(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b,
                              int64_t b_stride, bool accumulate, float* out, int64_t out_stride);

// out (m, n) = a (m, k) b^T, b (n, k), n <= kGramTile, T f32 or bf16, by the calling thread. The depth is cut
// into chunks of kGramDepth and each chunk's product is added to the running f32 sum, so a term takes part in
// at most kGramDepth + k / kGramDepth + 1 additions whatever order the kernel uses inside a chunk.
inline constexpr int64_t kGramTile = 64;
inline constexpr int64_t kGramDepth = 128;
template <typename T>
void multiply_by_transpose_tile(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b,
                                int64_t b_stride, float* out, int64_t out_stride);

}  // namespace dpfa::kernels
