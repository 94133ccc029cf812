// Forward error. Every Gram entry is a sum of n products formed in chunks of kGramDepth, each chunk added to
// the running f32 sum: a term takes part in at most kGramDepth + n / kGramDepth + 1 additions, so with u =
// 2^-24 its entry is off by at most (kGramDepth + n / kGramDepth + 2) u |x_t| |x_t'|, whatever order the
// product uses inside a chunk (Higham, Accuracy and Stability, section 3.1). With S = sum_t |x_t| |g_t| the
// error of the squared norm is then at most
//   gamma S^2,  gamma = 1.01 (2 kGramDepth + d / kGramDepth + p / kGramDepth + 4) u
// (sums of products of entries run in double; 1.01 covers the second-order terms and S being computed in
// f32). The product that is added has |fl(x^T g) - x^T g| <= 1.01 T u S. Products that leave the range of f32
// at its small end are lost whatever u says: at most e_x = 2 d 2^-126 per entry of x x^T and e_g = 2 p 2^-126
// per entry of g g^T, also where the processor flushes subnormal numbers. They enter S as |x_t| <= (x_t . x_t
// + e_x)^(1/2), and the squared norm's error as
//   e_g (sum_t |x_t|)^2 + e_x (sum_t |g_t|)^2 + T^2 e_x e_g.
#include "kernels/gram_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/blas.h"
#include "src/base/clones.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

template <typename T>
using SumOf = typename blas::SumOf<T>::type;

// The largest error of an entry of a Gram matrix of depth n from products below the range of the type.
template <typename T>
double lost(int64_t n) {
  return 2 * static_cast<double>(n) * static_cast<double>(std::numeric_limits<SumOf<T>>::min());
}

// out (rows, columns) = a (rows, depth) b (columns, depth)^T
template <typename T>
void product(int64_t rows, int64_t columns, int64_t depth, const T* a, const T* b, SumOf<T>* out) {
  if constexpr (std::is_same_v<T, double>) {
    for (int64_t k = 0; k < depth; k += kGramDepth)
      blas::gemm<double>(rows, columns, std::min(kGramDepth, depth - k), {a + k, depth, false},
                         {b + k, depth, true}, k == 0 ? 0.0 : 1.0, out, columns);
  } else {
    multiply_by_transpose_tile(rows, columns, depth, a, depth, b, depth, out, columns);
  }
}

DPFA_CLONES double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}
double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

template <typename T>
GramTokens gram_strip(const GradientRecords& records, size_t index, int64_t example, int64_t strip,
                      std::span<double> slots) {
  const LinearRecord& linear = records.linears[index];
  const int64_t tokens = records.length(example), first = strip * kGramTile;
  const int64_t columns = std::min(kGramTile, tokens - first), rows = tokens - first;
  const int64_t d = linear.input.size(1), p = linear.output_gradient.size(1);
  const T* x = linear.input.const_data_ptr<T>() + (records.begin(example) + first) * d;
  const T* g = linear.output_gradient.const_data_ptr<T>() + (records.begin(example) + first) * p;
  static thread_local std::vector<SumOf<T>> xs, gs;  // (rows, columns): a tile row depends on no other
  xs.resize(static_cast<size_t>(rows * columns));
  gs.resize(static_cast<size_t>(rows * columns));
  product<T>(rows, columns, d, x, x, xs.data());
  product<T>(rows, columns, p, g, g, gs.data());
  for (int64_t row = 0; row < rows; row += kGramTile) {
    const TilePair pair = {strip + row / kGramTile, strip};
    const int64_t at = row * columns;
    const double weight = pair_weight(pair);
    slots[static_cast<size_t>(pair_index(pair))] =
        weight * dot(xs.data() + at, gs.data() + at, std::min(kGramTile, rows - row) * columns);
  }
  GramTokens result;
  for (int64_t t = 0; t < columns; ++t) {
    const auto diagonal = static_cast<size_t>(t * columns + t);
    const double norm_x = std::sqrt(std::max(0.0, static_cast<double>(xs[diagonal])) + lost<T>(d));
    const double norm_g = std::sqrt(std::max(0.0, static_cast<double>(gs[diagonal])) + lost<T>(p));
    result.product += norm_x * norm_g;
    result.input += norm_x;
    result.gradient += norm_g;
  }
  return result;
}

template <typename T>
GramNorm gram_norm(const LinearRecord& linear, int64_t tokens, std::span<const double> slots,
                   std::span<const GramTokens> strips) {
  const double unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
  const int64_t d = linear.input.size(1), p = linear.output_gradient.size(1);
  const double t = static_cast<double>(tokens);
  GramTokens all;
  for (const GramTokens& strip : strips) {
    all.product += strip.product;
    all.input += strip.input;
    all.gradient += strip.gradient;
  }
  GramNorm result;
  result.squared = ordered_sum(slots.data(), static_cast<int64_t>(slots.size()));
  const double depth = kGramDepth, terms = 2 * depth + static_cast<double>(d + p) / depth + 4;
  result.error = 1.01 * terms * unit * all.product * all.product + lost<T>(p) * all.input * all.input +
                 lost<T>(d) * all.gradient * all.gradient + t * t * lost<T>(d) * lost<T>(p);
  result.product_error = 1.01 * t * unit * all.product;
  return result;
}

#define DPFA_INSTANTIATE(T)                                                                               \
  template GramTokens gram_strip<T>(const GradientRecords&, size_t, int64_t, int64_t, std::span<double>); \
  template GramNorm gram_norm<T>(const LinearRecord&, int64_t, std::span<const double>,                   \
                                 std::span<const GramTokens>);
DPFA_INSTANTIATE(float)
DPFA_INSTANTIATE(c10::BFloat16)
DPFA_INSTANTIATE(double)
#undef DPFA_INSTANTIATE

}  // namespace dpfa::kernels
