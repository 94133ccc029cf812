// The squared norm of one example's x^T g from the Gram matrices of x and g: CPU backend of the tile order in
// tiles.h. Neither a T x T matrix nor the gradient is formed.
//
//   |x^T g|^2 = sum over t, t' of (x_t . x_t') (g_t . g_t')   (Goodfellow 2015, arXiv 1510.01799)
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

// What the diagonal says about the tokens of one strip: sums of upper bounds of |x_t| |g_t|, |x_t|, |g_t|.
struct GramTokens {
  double product = 0, input = 0, gradient = 0;
};

// Writes weight x <X_i X_j^T, G_i G_j^T> to slots[pair_index({i, j})] for all i >= j = strip; `slots` are
// the example's gram_slots(tokens). T is the compute type of the record.
template <typename T>
GramTokens gram_strip(const GradientRecords& records, size_t linear, int64_t example, int64_t strip,
                      std::span<double> slots);

struct GramNorm {
  double squared = 0;
  double error = 0;          // |squared - true| <= error
  double product_error = 0;  // |fl(x^T g) - x^T g| <= product_error, for x^T g formed by gemm.h
};
// From all slots and all strips of one example (gram_norm.cc derives the bounds).
template <typename T>
GramNorm gram_norm(const LinearRecord& linear, int64_t tokens, std::span<const double> slots,
                   std::span<const GramTokens> strips);

}  // namespace dpfa::kernels
