#include "accounting/hockey_stick.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/normal_distribution.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// log(1 + expm1(x) / q) for 0 < q <= 1 where it exists, else -infinity; without overflow for large x.
long double log_scaled_growth(long double x, long double q) {
  if (x > 50) return x - std::log(q) + std::log1p((q - 1) * std::exp(-x));
  const long double growth = std::expm1(x) / q;
  return growth <= -1 ? -kInfinity : std::log1p(growth);
}

// log(1 - e^x) for x < 0.
long double log_one_minus_exp(long double x) {
  return x > -0.5L ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x));
}

}  // namespace

double gaussian_log_delta(double sigma, double epsilon) {
  if (sigma == 0) return 0;
  if (std::isinf(epsilon)) return epsilon > 0 ? -kInfinity : 0;
  const long double s = sigma, e = epsilon;
  const long double upper = log_normal_cdf(1 / (2 * s) - e * s);
  const long double lower = e + log_normal_cdf(-1 / (2 * s) - e * s);
  // Rounding can close the gap for sigma beyond about 1e9, where delta(epsilon) is 0 in any double.
  if (lower >= upper) return -kInfinity;
  return static_cast<double>(upper + log_one_minus_exp(lower - upper));
}

double sampled_log_delta(const LogDelta& base, double sample_rate, double epsilon, Direction direction) {
  if (sample_rate == 0) return epsilon < 0 ? static_cast<double>(log_one_minus_exp(epsilon)) : -kInfinity;
  const bool remove = direction == Direction::kRemove;
  const long double inner = log_scaled_growth(remove ? epsilon : -epsilon, sample_rate);
  const long double log_rate = std::log(static_cast<long double>(sample_rate));
  if (remove) {
    // Below log(1 - q) the likelihood ratio exceeds e^epsilon everywhere.
    if (std::isinf(inner)) return static_cast<double>(log_one_minus_exp(epsilon));
    return static_cast<double>(log_rate + base(static_cast<double>(inner)));
  }
  if (std::isinf(inner)) return -kInfinity;  // the loss is bounded by -log(1 - q)
  return static_cast<double>(log_rate + epsilon + inner + base(static_cast<double>(-inner)));
}

double replaced_gaussian_log_delta(double sigma, double sample_rate, double epsilon) {
  if (sample_rate == 0) return -kInfinity;
  if (sigma == 0) return std::log(sample_rate);
  const long double s = sigma, q = sample_rate, e = epsilon;
  if (sample_rate == 1) return gaussian_log_delta(sigma / 2, epsilon);
  // P/Q falls with x and equals e^epsilon where sinh(x / s^2 + e / 2) = -(1-q)/q e^(1 / 2s^2) sinh(e / 2).
  const long double log_ratio = std::log1p(-q) - std::log(q) + 1 / (2 * s * s);
  const long double half = std::abs(e) / 2;
  const long double log_sinh = half + std::log(-std::expm1(-2 * half)) - std::log(2.0L) + log_ratio;
  const long double magnitude = log_sinh > 40 ? log_sinh + std::log(2.0L) : std::asinh(std::exp(log_sinh));
  const long double x = s * s * ((e > 0 ? -magnitude : magnitude) - e / 2);
  const long double with = (1 - q) * normal_cdf(x / s) + q * normal_cdf((x + 1) / s);
  const long double without = std::exp(e + std::log1p(-q) + log_normal_cdf(x / s)) +
                              std::exp(e + std::log(q) + log_normal_cdf((x - 1) / s));
  return static_cast<double>(std::log(std::max(with - without, 0.0L)));
}

double smallest_epsilon(const LogDelta& log_delta, double delta) {
  const double target = std::log(delta);
  if (log_delta(0) <= target) return 0;
  double low = 0, high = 1;
  while (!(log_delta(high) <= target)) {
    low = high;
    high *= 2;
    if (high > 1e300) return kInfinity;
  }
  // Doubles between two powers of two are exhausted after 53 halvings, those below 1 a little later.
  for (int i = 0; i < 100; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (log_delta(middle) <= target ? high : low) = middle;
  }
  return high;
}

}  // namespace dpfa::accounting
