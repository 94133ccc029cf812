// The BLAS that libtorch_cpu carries (MKL on x86-64), called directly where a tensor per tile would cost more
// than the tile. Row-major, one thread per call: callers parallelise over tiles.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
            const int*, const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*,
            const int*, const double*, const int*, const double*, double*, const int*);
void gemm_bf16bf16f32_(const char*, const char*, const int*, const int*, const int*, const float*,
                       const uint16_t*, const int*, const uint16_t*, const int*, const float*, float*,
                       const int*);
}

namespace dpfa::kernels::blas {

// Sum type of a product of two matrices of T.
template <typename T>
struct SumOf {
  using type = T;
};
template <>
struct SumOf<c10::BFloat16> {
  using type = float;
};

// A row-major matrix operand; `transposed` reads it as its transpose.
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
  bool transposed;
};

// c (m, n) = a (m, k) b (k, n) + beta c, row-major with row stride ldc. Column-major BLAS computes the
// transpose: c^T = b^T a^T, so the operands change places.
template <typename T>
void gemm(int64_t m, int64_t n, int64_t k, Operand<T> a, Operand<T> b, double beta,
          typename SumOf<T>::type* c, int64_t ldc) {
  const int rows = static_cast<int>(n), cols = static_cast<int>(m), depth = static_cast<int>(k);
  const int lda = static_cast<int>(b.stride), ldb = static_cast<int>(a.stride), ld = static_cast<int>(ldc);
  const char* ta = b.transposed ? "T" : "N";
  const char* tb = a.transposed ? "T" : "N";
  using Sum = typename SumOf<T>::type;
  const Sum one = 1, scale = static_cast<Sum>(beta);
  if constexpr (std::is_same_v<T, float>) {
    sgemm_(ta, tb, &rows, &cols, &depth, &one, b.data, &lda, a.data, &ldb, &scale, c, &ld);
  } else if constexpr (std::is_same_v<T, double>) {
    dgemm_(ta, tb, &rows, &cols, &depth, &one, b.data, &lda, a.data, &ldb, &scale, c, &ld);
  } else {
    static_assert(std::is_same_v<T, c10::BFloat16>);
    gemm_bf16bf16f32_(ta, tb, &rows, &cols, &depth, &one, reinterpret_cast<const uint16_t*>(b.data), &lda,
                      reinterpret_cast<const uint16_t*>(a.data), &ldb, &scale, c, &ld);
  }
}

}  // namespace dpfa::kernels::blas
