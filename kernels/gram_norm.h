// The squared norms of one example's x^T g from the Gram matrices of x and g: CPU backend of the tile order
// in tiles.h. Neither a T x T matrix nor the gradient is formed.
//
//   |x^T g|^2 = sum over t, t' of (x_t . x_t') (g_t . g_t')   (Goodfellow 2015, arXiv 1510.01799)
//   |x^T g|^2 + |1^T g|^2 = sum over t, t' of (x_t . x_t' + 1) (g_t . g_t'): with the gradient of the bias
//
// A strip is a column of tile pairs (i, j), i >= j; strips are the unit of parallel work. What a strip
// computes depends on its example's rows alone, not on the example's slot, its neighbours or the threads.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/gemm.h"
#include "kernels/records.h"
#include "kernels/tiles.h"

namespace dpfa::kernels {

inline int64_t gram_strips(int64_t tokens) { return tiles_of(tokens, kGramTile); }
inline int64_t gram_slots(int64_t tokens) { return triangle(gram_strips(tokens)); }

// The units of a matrix, each with a norm of its own: equal blocks of outputs (heads; query, key, value),
// which share the Gram matrix of x.
struct GramUnits {
  int64_t groups = 1;  // a divisor of the outputs
  bool bias = false;   // the norm of the bias gradient of each block is included
};

// What the diagonal says about the tokens of one strip: sums of upper bounds of |x_t| |g_t|, |x_t|, |g_t|.
// With the bias x_t is (x_t, 1).
struct GramTokens {
  double product = 0, input = 0, gradient = 0;
};

// Of every unit u: writes weight x <X_i X_j^T [+ 1], G_i G_j^T> to slots[u gram_slots(tokens) +
// pair_index({i, j})] for all i >= j = strip, and what is known of the strip's tokens to strips[u
// gram_strips(tokens) + strip]. T is the compute type of the record. Throws InternalError where the blocks
// are not equal.
template <typename T>
void gram_strip(const GradientRecords& records, size_t linear, int64_t example, int64_t strip,
                const GramUnits& units, std::span<double> slots, std::span<GramTokens> strips);

struct GramNorm {
  double squared = 0;
  double error = 0;          // |squared - true| <= error
  double product_error = 0;  // |fl(x^T g) - x^T g| <= product_error, for x^T g formed by gemm.h
  double magnitude = 0;      // no partial sum of an entry of x^T g is larger
};
// From all slots and all strips of one unit of one example (gram_norm.cc derives the bounds).
template <typename T>
GramNorm gram_norm(const LinearRecord& linear, int64_t tokens, const GramUnits& units,
                   std::span<const double> slots, std::span<const GramTokens> strips);

// Whether the norm may stand for that of the product that is added, whose norm is then at most squared^(1/2)
// (1 + 2^-9 + 2^-10). False for NaN, and where an entry of the product could leave the range of f32, which
// the Gram norm, a number in double, would not show.
bool is_certified(const GramNorm& norm);

}  // namespace dpfa::kernels
