#include "kernels/gelu.h"

#include <bit>
#include <cmath>

#include "kernels/compute_type.h"
#include "kernels/vector_exp.h"
#include "src/base/check.h"
#include "src/base/clones.h"

namespace dpfa::kernels {
namespace {

#define DPFA_INLINE inline __attribute__((always_inline))

constexpr double kSlope = 1.5957691216057308;  // 2 (2 / pi)^(1/2)
constexpr double kCubic = 0.044715;

DPFA_INLINE float exp_below(float x) { return exp_of_nonpositive(x); }
DPFA_INLINE double exp_below(double x) { return std::exp(x); }

// The logistic function of z and its complement, without cancellation in either tail.
template <typename S>
DPFA_INLINE void logistic(S z, S& low, S& high) {
  const S e = exp_below(z < 0 ? z : -z), small = e / (1 + e), large = 1 / (1 + e);
  low = z < 0 ? small : large;
  high = z < 0 ? large : small;
}

template <typename S>
DPFA_INLINE S value_of(S x) {
  S low, high;
  logistic(static_cast<S>(kSlope) * (x + static_cast<S>(kCubic) * x * x * x), low, high);
  return x * low;
}

template <typename S>
DPFA_INLINE S slope_of(S x) {
  S low, high;
  logistic(static_cast<S>(kSlope) * (x + static_cast<S>(kCubic) * x * x * x), low, high);
  const S inner = static_cast<S>(kSlope) * (1 + 3 * static_cast<S>(kCubic) * x * x);
  return low + x * low * high * inner;
}

DPFA_INLINE float widen(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
// To nearest, ties to even; NaN stays NaN.
DPFA_INLINE uint16_t narrow(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
}

DPFA_CLONES void gelu_row(const float* x, int64_t n, float* y) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) y[c] = value_of(x[c]);
}
DPFA_CLONES void gelu_row(const uint16_t* x, int64_t n, uint16_t* y) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) y[c] = narrow(value_of(widen(x[c])));
}
void gelu_row(const double* x, int64_t n, double* y) {
  for (int64_t c = 0; c < n; ++c) y[c] = value_of(x[c]);
}

DPFA_CLONES void gradient_row(const float* g, const float* x, int64_t n, float* dx) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) dx[c] = g[c] * slope_of(x[c]);
}
DPFA_CLONES void gradient_row(const uint16_t* g, const uint16_t* x, int64_t n, uint16_t* dx) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) dx[c] = narrow(widen(g[c]) * slope_of(widen(x[c])));
}
void gradient_row(const double* g, const double* x, int64_t n, double* dx) {
  for (int64_t c = 0; c < n; ++c) dx[c] = g[c] * slope_of(x[c]);
}

// bf16 as its raw bits.
template <typename T>
using Raw = std::conditional_t<std::is_same_v<T, c10::BFloat16>, uint16_t, T>;
template <typename T>
const Raw<T>* raw(const at::Tensor& t) {
  return reinterpret_cast<const Raw<T>*>(t.const_data_ptr<T>());
}

}  // namespace

void gelu(const at::Tensor& x, at::Tensor& y) {
  DPFA_CHECK(x.is_contiguous() && y.is_contiguous() && x.sizes() == y.sizes());
  const int64_t rows = x.size(0), n = x.size(1);
  with_compute_type(x.scalar_type(), [&]<typename T>() {
    const Raw<T>* from = raw<T>(x);
    Raw<T>* to = reinterpret_cast<Raw<T>*>(y.data_ptr<T>());
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i) gelu_row(from + i * n, n, to + i * n);
  });
}

void gelu_gradient(const at::Tensor& g, const at::Tensor& x, at::Tensor& dx) {
  DPFA_CHECK(g.is_contiguous() && x.is_contiguous() && dx.is_contiguous() && g.sizes() == x.sizes());
  const int64_t rows = x.size(0), n = x.size(1);
  with_compute_type(x.scalar_type(), [&]<typename T>() {
    const Raw<T>*gs = raw<T>(g), *xs = raw<T>(x);
    Raw<T>* to = reinterpret_cast<Raw<T>*>(dx.data_ptr<T>());
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i) gradient_row(gs + i * n, xs + i * n, n, to + i * n);
  });
}

}  // namespace dpfa::kernels
