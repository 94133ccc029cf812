// Laws that statistical tests compare with.
#pragma once

#include <cmath>

namespace dpfa::testing {

// |z| of a standard normal exceeds this with probability 1e-7.
inline constexpr double kZ7 = 5.327;

// P(Z <= z) of a standard normal.
inline double normal_cdf(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

// P(|Z| > z).
inline double two_sided_tail(double z) { return std::erfc(z / std::sqrt(2.0)); }

// The smaller of P(N <= count) and P(N >= count) for N ~ Poisson(mean).
inline double poisson_tail(double mean, int count) {
  double at_most = 0, at_least = 1;
  for (int k = 0; k <= count; ++k) {
    if (k == count) at_least = 1 - at_most;
    at_most += std::exp(k * std::log(mean) - mean - std::lgamma(k + 1.0));
  }
  return std::fmin(at_most, at_least);
}

// The Kolmogorov-Smirnov statistic sqrt(n) D exceeds this with probability 1e-7 (2 exp(-2 x^2)).
inline constexpr double kKolmogorov7 = 2.90;

}  // namespace dpfa::testing
