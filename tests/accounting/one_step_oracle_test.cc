// delta(epsilon) of one release against 50-digit arithmetic, over a spread of points; the divergences of a
// step have theirs in event_rdp_test.cc and rdp_test.cc.
#include <gtest/gtest.h>

#include <cmath>

#include <boost/math/special_functions/erf.hpp>
#include <boost/multiprecision/cpp_bin_float.hpp>

#include "accounting/hockey_stick.h"

namespace dpfa::accounting {
namespace {

using Oracle = boost::multiprecision::cpp_bin_float_50;

constexpr double kRates[] = {1e-6, 1e-3, 0.02, 0.4, 1};
constexpr double kNoises[] = {0.3, 0.8, 2, 12, 100};
constexpr double kEpsilons[] = {1e-4, 0.05, 0.7, 3, 20};

Oracle above(const Oracle& x) { return boost::math::erfc(x / sqrt(Oracle(2))) / 2; }

// P(A) - e^epsilon Q(A) for the event A that a likelihood ratio of e^epsilon bounds.
Oracle exact_delta(double rate, double noise, double at, Direction direction) {
  const Oracle q = rate, s = noise, epsilon = at;
  const bool removed = direction == Direction::kRemove;
  const Oracle inside = 1 + (exp(removed ? epsilon : Oracle(-epsilon)) - 1) / q;
  if (inside <= 0) return 0;
  const Oracle z = s * s * log(inside) + Oracle(1) / 2;
  // For an added record A lies to the left of z.
  const Oracle sign = removed ? 1 : -1;
  const Oracle without = above(sign * z / s), with = (1 - q) * without + q * above(sign * (z - 1) / s);
  return removed ? Oracle(with - exp(epsilon) * without) : Oracle(without - exp(epsilon) * with);
}

TEST(OneStepOracle, SampledDeltaIsThatOfFiftyDigits) {
  int compared = 0;
  for (const double q : kRates) {
    for (const double s : kNoises) {
      for (const double epsilon : kEpsilons) {
        for (const Direction direction : {Direction::kRemove, Direction::kAdd}) {
          const Oracle exact = exact_delta(q, s, epsilon, direction);
          if (exact < Oracle("1e-30")) continue;  // 50 digits less what cancels in the difference
          const LogDelta base = [s](double e) { return gaussian_log_delta(s, e); };
          const double found = sampled_log_delta(base, q, epsilon, direction);
          const auto log_exact = static_cast<double>(log(exact));
          EXPECT_NEAR(found, log_exact, 1e-11 * (1 + std::fabs(log_exact)))
              << "q=" << q << " s=" << s << " epsilon=" << epsilon
              << (direction == Direction::kAdd ? " add" : "");
          ++compared;
        }
      }
    }
  }
  EXPECT_GE(compared, 80);
}

TEST(OneStepOracle, ReplacedDeltaIsThatOfFiftyDigits) {
  for (const double rate : {0.01, 0.3, 1.0}) {
    for (const double noise : {0.5, 1.0, 5.0}) {
      for (const double at : {0.05, 0.5, 2.0}) {
        const Oracle q = rate, s = noise, epsilon = at;
        const auto density = [&](const Oracle& x) -> Oracle { return exp(-x * x / (2 * s * s)); };
        // The ratio of the two mixtures rises, so the border is found by halving.
        Oracle low = -200, high = 200;
        for (int i = 0; i < 180; ++i) {
          const Oracle x = (low + high) / 2;
          const Oracle p = (1 - q) * density(x) + q * density(x - 1),
                       other = (1 - q) * density(x) + q * density(x + 1);
          (p > exp(epsilon) * other ? high : low) = x;
        }
        const Oracle p = (1 - q) * above(low / s) + q * above((low - 1) / s);
        const Oracle other = (1 - q) * above(low / s) + q * above((low + 1) / s);
        const Oracle exact = p - exp(epsilon) * other;
        if (exact < Oracle("1e-30")) continue;
        const auto log_exact = static_cast<double>(log(exact));
        EXPECT_NEAR(replaced_gaussian_log_delta(noise, rate, at), log_exact,
                    1e-10 * (1 + std::fabs(log_exact)))
            << "q=" << rate << " s=" << noise << " epsilon=" << at;
      }
    }
  }
}

}  // namespace
}  // namespace dpfa::accounting
