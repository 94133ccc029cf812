// Logarithms of normal tail probabilities, good to about 1e-17 relative to 1 + the logarithm's own size.
#pragma once

#include <cmath>

#include <boost/math/special_functions/erf.hpp>

namespace dpfa::accounting {

// log P[Z <= x]. Below -100 by the asymptotic series of erfc (its terms fall until far beyond double there).
inline long double log_normal_cdf(long double x) {
  if (x > 1) return std::log1p(-std::erfc(x / std::sqrt(2.0L)) / 2);
  if (x > -100) return std::log(std::erfc(-x / std::sqrt(2.0L)) / 2);
  const long double inverse = 1 / (x * x);
  const long double series =
      inverse * (-1 + inverse * (3 + inverse * (-15 + inverse * (105 - 945 * inverse))));
  constexpr long double kHalfLogTwoPi = 0.918938533204672741780329736405617640L;
  return -x * x / 2 - kHalfLogTwoPi - std::log(-x) + std::log1p(series);
}

inline long double normal_cdf(long double x) { return std::erfc(-x / std::sqrt(2.0L)) / 2; }

// x with P[Z <= x] = probability in (0, 1).
inline long double normal_quantile(long double probability) {
  return -std::sqrt(2.0L) * boost::math::erfc_inv(2 * probability);
}

}  // namespace dpfa::accounting
