// Forward error of products on tensor cores, and the certified bound of a Gram norm that follows from it.
//
// What is assumed of the hardware (Fasi, Higham, Mikaitis, Pranesh 2021, "Numerical behavior of NVIDIA tensor
// cores", PeerJ CS 7:e330): products of bfloat16 numbers are exact; they are added to the running f32 sum at
// least four at a time, every addend truncated to 24 bits below the largest, the result truncated to f32.
// Each of these additions of k terms is then off by at most (k + 1) 2^-23 Q, Q = sum |a_i b_i| so far, so a
// chain of n products by at most 1.25 n 2^-23 Q. The CUDA suite tests it (TensorCoreSum...).
//
// The kernels start a chain anew every kDepth products and add its result to an f32 sum in round to nearest,
// which adds 2^-24 Q each. Products and sums below 2^-126 may be lost on top: at most 2^-125 per product.
#pragma once

#include <cmath>

#include "kernels/clip_rule.h"
#include "kernels/cuda/tile_layout.h"
#include "src/base/plant.h"

namespace dpfa::kernels::cuda {

// Every byte of a slot or norm before a kernel writes it, so that it reads as NaN: what was not computed
// gives the factor 0.
inline int unwritten_byte() { return DPFA_PLANT("unwritten_slot_accepted") ? 0 : 0xFF; }

// |computed - exact| <= product_error(n) sum |a_i b_i| + underflow(n) for a product of n terms; 1.01 covers
// second-order terms.
DPFA_HOST_DEVICE constexpr double product_error(int64_t n) {
  const int64_t chain = n < kDepth ? n : kDepth;
  return 1.01 *
         (1.25 * static_cast<double>(chain) * 0x1p-23 + static_cast<double>(tiles_of(n, kDepth)) * 0x1p-24);
}
DPFA_HOST_DEVICE constexpr double underflow(int64_t n) { return static_cast<double>(n) * 0x1p-125; }

// An upper bound a of |x| with product_error(n) a b >= product_error(n) |x| |y| + underflow(n) for any two
// such bounds a of |x| and b of |y| (Cauchy-Schwarz: (|x|^2 + c)(|y|^2 + c) >= (|x| |y| + c)^2). Rounded up.
DPFA_HOST_DEVICE inline double padded_norm(double squared, int64_t n) {
  return n == 0 ? 0 : sqrt(squared + underflow(n) / product_error(n)) * (1 + 1e-9);
}

// What is known of one matrix's gradient x^T g of one example.
struct GramResult {
  double squared;    // sum over t, t' of (x_t . x_t' [+ 1]) (g_t . g_t') as computed
  double error;      // |squared - exact| is at most this
  double magnitude;  // S = sum_t |x_t| |g_t|, from padded norms
};

// With computed Gram entries A = fl(x_t . x_t' [+ 1]), B = fl(g_t . g_t') that are off by at most ex a_t a_t'
// and eg b_t b_t' (a, b padded norms): |A B - exact| <= ex a a' |B| + eg b b' |A| + ex eg a a' b b'. x_error
// and g_error are the sums over t, t' of a a' |B| and b b' |A|; that of the last term is S^2.
DPFA_HOST_DEVICE inline GramResult gram_result(double squared, double x_error, double g_error,
                                               double magnitude, int64_t inputs, int64_t outputs) {
  const double ex = product_error(inputs), eg = product_error(outputs);
  const double error = ex * x_error + eg * g_error + ex * eg * magnitude * magnitude;
  return {squared, 1.01 * error, magnitude};
}

// Whether the Gram norm may stand for the norm of the product that is added: its own error is small, and so
// is that of the product over `tokens` tokens, |fl(x^T g) - x^T g| <= product_error(tokens) S +
// underflow(tokens) sqrt(d p). The added gradient's squared norm is then at most upper_squared x (1 +
// 2^-10)^2. False for NaN and infinity, and where an entry of the product could leave the range of f32.
DPFA_HOST_DEVICE inline bool is_certified(const GramResult& r, int64_t tokens, int64_t inputs,
                                          int64_t outputs) {
  const double entries = static_cast<double>(inputs) * static_cast<double>(outputs);
  const double product = product_error(tokens) * r.magnitude + underflow(tokens) * sqrt(entries);
  const bool in_range = r.magnitude <= 0x1p126 || DPFA_PLANT("overflow_certified");
  return in_range && r.squared <= kLargestDouble && r.error <= 0x1p-8 * r.squared &&
         product <= 0x1p-10 * sqrt(r.squared);
}
// At least the true squared norm; at most 2^-8 above it, relatively, where certified.
DPFA_HOST_DEVICE inline double upper_squared(const GramResult& r) { return r.squared + r.error; }

// A tied token table's gradient of one example, E + z^T h, from the Gram norm of z^T h (n columns):
// |E + z^T h|^2 = |E|^2 + |z^T h|^2 + 2 <E, z^T h>. rows_squared is |E|^2 of the f32 rows that are added;
// `term` the cross term as computed from the rows' summands, off by at most product_error(n)
// cross_magnitude, and by 2^-23 |E| |z^T h| for the rounding of the rows to f32.
DPFA_HOST_DEVICE inline GramResult tied_result(const GramResult& head, double rows_squared, double term,
                                               double cross_magnitude, int64_t n) {
  const double rounding = 0x1p-23 * sqrt(rows_squared) * sqrt(upper_squared(head));
  const double cross_error = product_error(n) * cross_magnitude + rounding;
  return {head.squared + rows_squared + 2 * term, 1.01 * (head.error + 2 * cross_error),
          head.magnitude + sqrt(rows_squared)};
}

// clip_factor() of the norm; a NaN, which gives 0, means that it was not computed.
DPFA_HOST_DEVICE inline double factor_of(double squared_norm, Clipping clip) {
  const double norm = sqrt(squared_norm);
  if (DPFA_PLANT("nan_factor_accepted") && !(norm >= 0)) return 1;
  return clip_factor(norm, clip);
}

}  // namespace dpfa::kernels::cuda
