#include "kernels/gemm.h"

#include <ATen/native/CPUBlas.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "src/base/check.h"

namespace dpfa::kernels {
namespace {

// A packed panel of b (kDepth x kColumns) stays in the second-level cache while the kernel runs over it.
constexpr int64_t kRows = 64;
constexpr int64_t kColumns = 64;
constexpr int64_t kDepth = 768;
// Of a^T b both operands are packed: a panel of b (kTileDepth x kColumns), kTileRows rows of a^T and the tile
// of the product, 480 KB, stay in the second-level cache. Read in place, rows of b at a stride of 4
// KiB would all take the same few lines of the first-level cache.
constexpr int64_t kTileDepth = 384;
constexpr int64_t kSerialWork =
    1 << 20;  // multiply-adds below which one thread is done before others wake up
constexpr int64_t kRowsPerTask = 2 * kRows;  // at least: a task packs its panel of b itself

struct Matrix {
  const float* data;
  int64_t stride;
  bool transposed;  // element (i, j) lies at j * stride + i instead of i * stride + j
};

Matrix matrix_of(const at::Tensor& t) {
  const bool row_major = t.stride(1) == 1 || t.size(1) == 1;
  DPFA_CHECK(t.dim() == 2 && (row_major || t.stride(0) == 1 || t.size(0) == 1));
  return {t.const_data_ptr<float>(), row_major ? t.stride(0) : t.stride(1), !row_major};
}

// Memory of one thread, aligned for the widest vectors.
class Space {
 public:
  explicit Space(int64_t elements)
      : memory_(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(elements) * sizeof(float)))) {
    if (!memory_) throw std::bad_alloc();
  }
  float* data() { return memory_.get(); }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> memory_;
};

float* packing_space() {
  static thread_local Space space(std::max(kDepth * kColumns, kTileDepth * kTileRows));
  return space.data();
}

// For the second operand where both are packed, and for the product of one chunk of a Gram tile.
float* second_space() {
  static thread_local Space space(std::max(kTileDepth * kColumns, kRows * (kGramTile + kGramDepth)));
  return space.data();
}

// to (rows, columns) with row stride `columns` = from (columns, rows)^T with row stride `stride`. Few rows of
// `from` at a time: at a stride of 4 KiB more of them would drive each other out of the first-level cache.
template <typename T>
void pack_transposed(const T* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  constexpr int64_t kStrip = 64;
  constexpr std::integral_constant<int64_t, 4> kGroup;
  for (int64_t r0 = 0; r0 < rows; r0 += kStrip) {
    const int64_t r1 = std::min(rows, r0 + kStrip);
    const auto turn = [&](int64_t c0, auto group) {
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = 0; c < group; ++c)
          to[r * columns + c0 + c] = static_cast<float>(from[(c0 + c) * stride + r]);
    };
    int64_t c0 = 0;
    for (; c0 + kGroup <= columns; c0 += kGroup) turn(c0, kGroup);
    if (c0 < columns) turn(c0, columns - c0);
  }
}

// to (rows, columns), compact = from (rows, columns) with row stride `stride`.
template <typename T>
void pack_rows(const T* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[r * columns + c] = static_cast<float>(from[r * stride + c]);
}

void pack(const Matrix& b, int64_t row, int64_t rows, int64_t column, int64_t columns, float* to) {
  if (b.transposed) return pack_transposed(b.data + column * b.stride + row, b.stride, rows, columns, to);
  pack_rows(b.data + row * b.stride + column, b.stride, rows, columns, to);
}

// Rows [first, last) of one panel of columns of out.
void multiply_panel(const float* a, int64_t a_stride, const Matrix& b, int64_t first, int64_t last,
                    int64_t column, int64_t columns, int64_t depth, const float* bias, float* out,
                    int64_t out_stride) {
  float* packed = packing_space();
  if (bias != nullptr)
    for (int64_t i = first; i < last; ++i) std::copy_n(bias + column, columns, out + i * out_stride + column);
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t d = std::min(kDepth, depth - k);
    pack(b, k, d, column, columns, packed);
    for (int64_t i = first; i < last; i += kRows)
      at::native::cpublas::brgemm(std::min(kRows, last - i), columns, d, a_stride, columns, out_stride,
                                  bias != nullptr || k > 0, a + i * a_stride + k, packed,
                                  out + i * out_stride + column);
  }
}

bool is_tiled(const at::Tensor& t) { return t.scalar_type() == at::kFloat; }

}  // namespace

void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor& out, const at::Tensor& bias) {
  const int64_t m = a.size(0), n = b.size(1), depth = a.size(1);
  DPFA_CHECK(b.size(0) == depth && out.size(0) == m && out.size(1) == n);
  DPFA_CHECK(a.stride(1) == 1 && out.stride(1) == 1);
  if (!is_tiled(a)) {
    bias.defined() ? at::addmm_out(out, bias, a, b) : at::mm_out(out, a, b);
    return;
  }
  const float* left = a.const_data_ptr<float>();
  const Matrix right = matrix_of(b);
  float* target = out.data_ptr<float>();
  const int64_t stride = out.stride(0);
  const float* shift = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  const int64_t panels = (n + kColumns - 1) / kColumns;
  // Few panels for many threads: the rows are split too.
  const int64_t wanted = (4 * omp_get_max_threads() + panels - 1) / panels;
  const int64_t chunks = std::clamp<int64_t>(m / kRowsPerTask, 1, wanted);
  const int64_t rows = ((m + chunks - 1) / chunks + kRows - 1) / kRows * kRows;
#pragma omp parallel for schedule(dynamic, 1) if (m * n * depth >= kSerialWork)
  for (int64_t task = 0; task < panels * chunks; ++task) {
    const int64_t column = task / chunks * kColumns, first = task % chunks * rows;
    if (first < m)
      multiply_panel(left, a.stride(0), right, first, std::min(m, first + rows), column,
                     std::min(kColumns, n - column), depth, shift, target, stride);
  }
}

template <typename T>
void multiply_transposed_tile(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b,
                              int64_t b_stride, bool accumulate, float* out, int64_t out_stride) {
  float *packed = packing_space(), *panel = second_space();
  for (int64_t first = 0; first < m; first += kTileRows) {
    const int64_t last = std::min(m, first + kTileRows);
    for (int64_t t = 0; t < k; t += kTileDepth) {
      const int64_t depth = std::min(kTileDepth, k - t);
      pack_transposed(a + t * a_stride + first, a_stride, last - first, depth, packed);
      for (int64_t j = 0; j < n; j += kColumns) {
        const int64_t columns = std::min(kColumns, n - j);
        pack_rows(b + t * b_stride + j, b_stride, depth, columns, panel);
        for (int64_t i = first; i < last; i += kRows)
          at::native::cpublas::brgemm(std::min(kRows, last - i), columns, depth, depth, columns, out_stride,
                                      accumulate || t > 0, packed + (i - first) * depth, panel,
                                      out + i * out_stride + j);
      }
    }
  }
}
template void multiply_transposed_tile<float>(int64_t, int64_t, int64_t, const float*, int64_t, const float*,
                                              int64_t, bool, float*, int64_t);
template void multiply_transposed_tile<c10::BFloat16>(int64_t, int64_t, int64_t, const c10::BFloat16*,
                                                      int64_t, const c10::BFloat16*, int64_t, bool, float*,
                                                      int64_t);

template <typename T>
void multiply_by_transpose_tile(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b,
                                int64_t b_stride, float* out, int64_t out_stride) {
  DPFA_CHECK(n <= kGramTile, n);
  constexpr bool kWidens = !std::is_same_v<T, float>;
  float *packed = packing_space(), *product = second_space(), *wide = product + kRows * kGramTile;
  for (int64_t t = 0; t < k; t += kGramDepth) {
    const int64_t depth = std::min(kGramDepth, k - t);
    pack_transposed(b + t, b_stride, depth, n, packed);
    for (int64_t i = 0; i < m; i += kRows) {
      const int64_t rows = std::min(kRows, m - i);
      const T* block = a + i * a_stride + t;
      float* target = out + i * out_stride;
      const bool first = t == 0;
      float* to = first ? target : product;
      const int64_t to_stride = first ? out_stride : n;
      if constexpr (kWidens) {
        pack_rows(block, a_stride, rows, depth, wide);
        at::native::cpublas::brgemm(rows, n, depth, depth, n, to_stride, false, wide, packed, to);
      } else {
        at::native::cpublas::brgemm(rows, n, depth, a_stride, n, to_stride, false, block, packed, to);
      }
      if (first) continue;
      for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) target[r * out_stride + c] += product[r * n + c];
    }
  }
}
template void multiply_by_transpose_tile<float>(int64_t, int64_t, int64_t, const float*, int64_t,
                                                const float*, int64_t, float*, int64_t);
template void multiply_by_transpose_tile<c10::BFloat16>(int64_t, int64_t, int64_t, const c10::BFloat16*,
                                                        int64_t, const c10::BFloat16*, int64_t, float*,
                                                        int64_t);

void multiply_transposed(const at::Tensor& a, const at::Tensor& b, bool accumulate, at::Tensor& out) {
  const int64_t m = a.size(1), n = b.size(1), k = a.size(0);
  DPFA_CHECK(b.size(0) == k && out.size(0) == m && out.size(1) == n);
  if (!is_tiled(a)) {
    accumulate ? at::addmm_out(out, out, a.t(), b) : at::mm_out(out, a.t(), b);
    return;
  }
  const float *left = a.const_data_ptr<float>(), *right = b.const_data_ptr<float>();
  float* target = out.data_ptr<float>();
  const int64_t tiles_across = (n + kTileColumns - 1) / kTileColumns;
  const int64_t tiles = (m + kTileRows - 1) / kTileRows * tiles_across;
#pragma omp parallel for schedule(dynamic, 1) if (m * n * k >= kSerialWork)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t i = tile / tiles_across * kTileRows, j = tile % tiles_across * kTileColumns;
    multiply_transposed_tile(std::min(kTileRows, m - i), std::min(kTileColumns, n - j), k, left + i,
                             a.stride(0), right + j, b.stride(0), accumulate, target + i * out.stride(0) + j,
                             out.stride(0));
  }
}

}  // namespace dpfa::kernels
