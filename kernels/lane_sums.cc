#include "kernels/lane_sums.h"

#include "src/base/check.h"
#include "src/base/clones.h"

namespace dpfa::kernels {
namespace {

DPFA_CLONES double squares(const float* v, int64_t n) { return lane_sums::products(v, v, n); }
DPFA_CLONES double squares(const uint16_t* v, int64_t n) { return lane_sums::products(v, v, n); }
DPFA_CLONES double squares(const double* v, int64_t n) { return lane_sums::products(v, v, n); }
DPFA_CLONES double products(const float* a, const float* b, int64_t n) {
  return lane_sums::products(a, b, n);
}
DPFA_CLONES double products(const double* a, const double* b, int64_t n) {
  return lane_sums::products(a, b, n);
}

template <typename T>
double products_of(std::span<const T> a, std::span<const T> b) {
  DPFA_CHECK(a.size() == b.size(), a.size(), " and ", b.size());
  return products(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

}  // namespace

double sum_of_squares(std::span<const float> v) { return squares(v.data(), static_cast<int64_t>(v.size())); }
double sum_of_squares(std::span<const c10::BFloat16> v) {
  return squares(reinterpret_cast<const uint16_t*>(v.data()), static_cast<int64_t>(v.size()));
}
double sum_of_squares(std::span<const double> v) { return squares(v.data(), static_cast<int64_t>(v.size())); }

double sum_of_products(std::span<const float> a, std::span<const float> b) { return products_of(a, b); }
double sum_of_products(std::span<const double> a, std::span<const double> b) { return products_of(a, b); }

}  // namespace dpfa::kernels
