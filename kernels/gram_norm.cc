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
// With the bias x_t stands for (x_t, 1): the 1 is added last, one addition more. p is the width of a unit's
// block of outputs.
#include "kernels/gram_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/blas.h"
#include "kernels/lane_sums.h"
#include "src/base/check.h"
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

// out (rows, columns) = a (rows, depth) b (columns, depth)^T, where b holds the first rows of a; rows
// `stride` apart.
template <typename T>
void product(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t stride, SumOf<T>* out) {
  if constexpr (std::is_same_v<T, double>) {
    for (int64_t k = 0; k < depth; k += kGramDepth)
      blas::gemm<double>(rows, columns, std::min(kGramDepth, depth - k), {a + k, stride, false},
                         {a + k, stride, true}, k == 0 ? 0.0 : 1.0, out, columns);
  } else {
    multiply_by_transpose_tile(rows, columns, depth, a, stride, a, stride, out, columns);
  }
}

// One strip's entries of both Gram matrices: (rows, columns), a tile row depends on no other.
template <typename T>
struct Entries {
  int64_t rows, columns;
  std::vector<SumOf<T>> xs, gs;
};

template <typename T>
void write_slots(const Entries<T>& entries, int64_t strip, std::span<double> slots) {
  for (int64_t row = 0; row < entries.rows; row += kGramTile) {
    const TilePair pair = {strip + row / kGramTile, strip};
    const auto tile = [&](const std::vector<SumOf<T>>& all) {
      return std::span(all).subspan(row * entries.columns,
                                    std::min(kGramTile, entries.rows - row) * entries.columns);
    };
    slots[pair_index(pair)] = pair_weight(pair) * sum_of_products(tile(entries.xs), tile(entries.gs));
  }
}

template <typename T>
GramTokens tokens_of(const Entries<T>& entries, double lost_x, double lost_g) {
  GramTokens result;
  for (int64_t t = 0; t < entries.columns; ++t) {
    const int64_t diagonal = t * entries.columns + t;
    const double norm_x = std::sqrt(std::max(0.0, static_cast<double>(entries.xs[diagonal])) + lost_x);
    const double norm_g = std::sqrt(std::max(0.0, static_cast<double>(entries.gs[diagonal])) + lost_g);
    result.product += norm_x * norm_g;
    result.input += norm_x;
    result.gradient += norm_g;
  }
  return result;
}

}  // namespace

template <typename T>
void gram_strip(const GradientRecords& records, size_t index, int64_t example, int64_t strip,
                const GramUnits& units, std::span<double> slots, std::span<GramTokens> strips) {
  const LinearRecord& linear = records.linears[index];
  const int64_t tokens = records.length(example), first = strip * kGramTile;
  const int64_t d = linear.input.size(1), p = linear.output_gradient.size(1);
  DPFA_CHECK(units.groups > 0 && p % units.groups == 0, p, " outputs in ", units.groups, " blocks");
  const int64_t width = p / units.groups;
  const T* x = linear.input.const_data_ptr<T>() + (records.begin(example) + first) * d;
  const T* g = linear.output_gradient.const_data_ptr<T>() + (records.begin(example) + first) * p;
  static thread_local Entries<T> entries;
  entries.rows = tokens - first;
  entries.columns = std::min(kGramTile, tokens - first);
  entries.xs.resize(entries.rows * entries.columns);
  entries.gs.resize(entries.rows * entries.columns);
  product(entries.rows, entries.columns, d, x, d, entries.xs.data());
  if (units.bias && !DPFA_PLANT("bias_missing"))
    for (SumOf<T>& entry : entries.xs) entry += 1;
  for (int64_t u = 0; u < units.groups; ++u) {
    const int64_t block = DPFA_PLANT("gram_block_of_a_neighbour") ? (u + 1) % units.groups : u;
    product(entries.rows, entries.columns, width, g + block * width, p, entries.gs.data());
    write_slots(entries, strip, slots.subspan(u * gram_slots(tokens), gram_slots(tokens)));
    strips[u * gram_strips(tokens) + strip] = tokens_of(entries, lost<T>(d), lost<T>(width));
  }
}

template <typename T>
GramNorm gram_norm(const LinearRecord& linear, int64_t tokens, const GramUnits& units,
                   std::span<const double> slots, std::span<const GramTokens> strips) {
  const double unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
  const int64_t d = linear.input.size(1), p = linear.output_gradient.size(1) / units.groups;
  const double t = static_cast<double>(tokens);
  GramTokens all;
  for (const GramTokens& strip : strips) {
    all.product += strip.product;
    all.input += strip.input;
    all.gradient += strip.gradient;
  }
  GramNorm result;
  result.squared = ordered_sum(slots.data(), static_cast<int64_t>(slots.size()));
  const double depth = kGramDepth,
               terms = 2 * depth + static_cast<double>(d + p) / depth + 4 + (units.bias ? 1 : 0);
  result.error = 1.01 * terms * unit * all.product * all.product + lost<T>(p) * all.input * all.input +
                 lost<T>(d) * all.gradient * all.gradient + t * t * lost<T>(d) * lost<T>(p);
  result.product_error = 1.01 * t * unit * all.product;
  result.magnitude = all.product;
  return result;
}

bool is_certified(const GramNorm& norm) {
  const bool in_range = norm.magnitude <= 0x1p126 || DPFA_PLANT("overflow_certified");
  return in_range && norm.error <= 0x1p-8 * norm.squared &&
         norm.product_error <= 0x1p-10 * std::sqrt(std::max(0.0, norm.squared));
}

#define DPFA_INSTANTIATE(T)                                                                               \
  template void gram_strip<T>(const GradientRecords&, size_t, int64_t, int64_t, const GramUnits&,         \
                              std::span<double>, std::span<GramTokens>);                                  \
  template GramNorm gram_norm<T>(const LinearRecord&, int64_t, const GramUnits&, std::span<const double>, \
                                 std::span<const GramTokens>);
DPFA_INSTANTIATE(float)
DPFA_INSTANTIATE(c10::BFloat16)
DPFA_INSTANTIATE(double)
#undef DPFA_INSTANTIATE

}  // namespace dpfa::kernels
