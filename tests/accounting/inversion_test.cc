// The second derivation against closed forms, a 50-digit convolution and published values.
#include "accounting/inversion.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <random>
#include <vector>

#include <boost/math/special_functions/erf.hpp>
#include <boost/multiprecision/cpp_bin_float.hpp>

#include "accounting/hockey_stick.h"
#include "accounting/tilted_law.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

using Oracle = boost::multiprecision::cpp_bin_float_50;

EpsilonBracket bracket(double q, double s, int64_t count, double delta, double near) {
  const GaussianSteps steps{q, s, count};
  return certified_epsilon(std::span(&steps, 1), delta, near);
}

void expect_holds(const EpsilonBracket& bracket, double exact, double widest) {
  ASSERT_EQ(bracket.reason, "");
  EXPECT_LE(bracket.lower, exact * (1 + 1e-12));
  EXPECT_GE(bracket.upper, exact * (1 - 1e-12));
  EXPECT_LE(bracket.upper - bracket.lower, widest * exact);
}

TEST(Inversion, HoldsTheClosedFormOfPlainGaussians) {
  for (const double noise : {0.3, 1.0, 7.0, 100.0}) {
    for (const double delta : {1e-3, 1e-6, 1e-12}) {
      const double exact = smallest_epsilon([=](double e) { return gaussian_log_delta(noise, e); }, delta);
      if (exact == 0) continue;
      expect_holds(bracket(1, noise, 1, delta, exact), exact, 1e-5);
      expect_holds(bracket(1, noise * std::sqrt(50.0), 50, delta, exact * 1.1), exact, 1e-5);
    }
  }
}

TEST(Inversion, HoldsTheClosedFormOfOneSampledStep) {
  for (const double q : {1e-4, 0.01, 0.5, 0.99}) {
    for (const double noise : {0.5, 1.0, 4.0}) {
      const auto log_delta = [&](double e) {
        const LogDelta base = [&](double x) { return gaussian_log_delta(noise, x); };
        return std::max(sampled_log_delta(base, q, e, Direction::kRemove),
                        sampled_log_delta(base, q, e, Direction::kAdd));
      };
      const double exact = smallest_epsilon(log_delta, 1e-6);
      if (exact > 0) expect_holds(bracket(q, noise, 1, 1e-6, exact), exact, 1e-6);
    }
  }
}

// delta of one direction after two steps: the outer expectation by the trapezoid rule in 50 digits, the inner
// one in closed form. The integrand is smooth up to a kink in its second derivative.
Oracle delta_of_two_steps(const Oracle& q, const Oracle& s, const Oracle& epsilon, bool removed) {
  const Oracle root = sqrt(Oracle(2)), pi = boost::math::constants::pi<Oracle>();
  const auto above = [&](const Oracle& x) -> Oracle { return boost::math::erfc(x / (s * root)) / 2; };
  const auto one_step = [&](const Oracle& e) -> Oracle {
    const Oracle inside = 1 + (exp(removed ? e : Oracle(-e)) - 1) / q;
    if (inside <= 0) return removed ? Oracle(1 - exp(e)) : Oracle(0);
    const Oracle z = s * s * log(inside) + Oracle(1) / 2;
    const Oracle with = (1 - q) * above(z) + q * above(z - 1), without = above(z);
    return removed ? Oracle(with - exp(e) * without) : Oracle((1 - without) - exp(e) * (1 - with));
  };
  constexpr int kPoints = 1000;
  const Oracle low = -14 * s, width = (1 + 28 * s) / kPoints;
  Oracle sum = 0;
  for (int j = 0; j <= kPoints; ++j) {
    const Oracle x = low + width * j;
    const Oracle without = exp(-x * x / (2 * s * s)) / (s * sqrt(2 * pi));
    const Oracle with = (1 - q) * without + q * exp(-(x - 1) * (x - 1) / (2 * s * s)) / (s * sqrt(2 * pi));
    const Oracle loss = removed ? log(with / without) : log(without / with);
    sum += (removed ? with : without) * one_step(epsilon - loss) * width;
  }
  return sum;
}

// The steps that a run of `count` steps is built from, by brute force; the bracket must hold what it gives.
TEST(Inversion, AgreesWithFiftyDigitConvolutionOfTwoDifferentSteps) {
  const Oracle q = Oracle(1) / 4, s = Oracle(3) / 2;
  for (const double epsilon : {0.5, 1.0, 2.0}) {
    const double removed = static_cast<double>(delta_of_two_steps(q, s, epsilon, true));
    const double added = static_cast<double>(delta_of_two_steps(q, s, epsilon, false));
    const double delta = std::max(removed, added);
    const EpsilonBracket found = bracket(0.25, 1.5, 2, delta, epsilon);
    if (!found.reason.empty()) {
      ADD_FAILURE() << found.reason;
      continue;
    }
    EXPECT_NEAR(found.lower, epsilon, 2e-5);
    EXPECT_NEAR(found.upper, epsilon, 2e-5);
  }
}

TEST(Inversion, HoldsPublishedExactValues) {
  struct Row {
    double q, noise;
    int64_t count;
    double delta, exact;
  };
  // accounting by importance sampling and 40-digit arithmetic, five digits
  for (const Row& row : {Row{0.01, 1, 10000, 1e-6, 6.90738}, Row{0.001, 0.8, 100000, 1e-12, 4.6466},
                         Row{0.001, 1, 1000000, 1e-12, 9.7964}, Row{1e-4, 1, 1000000, 1e-8, 0.65811},
                         Row{0.04, 1.5, 2250, 1e-5, 6.7688}, Row{1e-4, 0.6, 100000, 1e-8, 1.9536}}) {
    const EpsilonBracket found = bracket(row.q, row.noise, row.count, row.delta, row.exact * 1.001);
    ASSERT_EQ(found.reason, "");
    EXPECT_NEAR(found.upper, row.exact, 5e-5 * row.exact + 5e-6);
    EXPECT_LE(found.upper - found.lower, 1e-5 * found.upper);
  }
}

TEST(Inversion, DependsNeitherOnOrderNorOnGroupingNorOnWhereItLooks) {
  const std::vector<GaussianSteps> steps = {{0.02, 1.2, 300}, {0.05, 2, 200}, {1, 40, 10}};
  const std::vector<GaussianSteps> split = {
      {1, 40, 4}, {0.05, 2, 200}, {0.02, 1.2, 299}, {1, 40, 6}, {0.02, 1.2, 1}};
  const EpsilonBracket first = certified_epsilon(steps, 1e-6, 2);
  const EpsilonBracket second = certified_epsilon(split, 1e-6, 1.2 * first.upper);
  ASSERT_EQ(first.reason + second.reason, "");
  EXPECT_LE(first.lower, second.upper);
  EXPECT_LE(second.lower, first.upper);
  EXPECT_NEAR(first.upper, second.upper, 1e-5 * first.upper);
}

TEST(Inversion, GrowsWithStepsAndRateAndShrinksWithNoiseAndDelta) {
  std::mt19937_64 random(20);
  std::uniform_real_distribution<double> unit(0, 1);
  for (int i = 0; i < 6; ++i) {
    const double q = std::pow(10, -2.2 + 1.8 * unit(random)), noise = 0.7 + 2 * unit(random);
    const auto count = static_cast<int64_t>(100 * std::pow(50, unit(random)));
    const EpsilonBracket base = bracket(q, noise, count, 1e-6, 3);
    if (!base.reason.empty()) continue;
    EXPECT_GT(bracket(q, noise, 2 * count, 1e-6, base.upper).lower, base.upper) << q << " " << noise;
    EXPECT_GT(bracket(1.2 * q, noise, count, 1e-6, base.upper).lower, base.upper);
    EXPECT_LT(bracket(q, 1.2 * noise, count, 1e-6, base.upper).upper, base.lower);
    EXPECT_LT(bracket(q, noise, count, 1e-5, base.upper).upper, base.lower);
  }
}

TEST(Inversion, EdgesAreExactAndWrongArgumentsAreErrors) {
  EXPECT_EQ(certified_epsilon({}, 1e-6, 1).upper, 0);
  EXPECT_EQ(bracket(0, 1, 100, 1e-6, 1).upper, 0);
  EXPECT_EQ(bracket(0.1, 1, 0, 1e-6, 1).upper, 0);
  EXPECT_TRUE(std::isinf(bracket(0.1, 0, 1, 1e-6, 1).lower));
  EXPECT_EQ(bracket(0.001, 10, 10, 0.5, 1).upper, 0) << "delta is larger than what one could lose";
  EXPECT_THROW(bracket(0.1, 1, 1, 0, 1), ConfigError);
  EXPECT_THROW(bracket(1.5, 1, 1, 1e-6, 1), ConfigError);
  EXPECT_THROW(bracket(0.1, -1, 1, 1e-6, 1), ConfigError);
  EXPECT_THROW(bracket(0.1, 1, -1, 1e-6, 1), ConfigError);
}

TEST(TiltedLaw, CharacteristicFunctionIsThatOfFiftyDigitsWithinItsError) {
  const long double theta = 3, t = 20;
  for (const RecordChange change : {RecordChange::kRemoved, RecordChange::kAdded}) {
    const TiltedLaw law(0.1L, 0.8L, change, theta, t);
    TiltedLaw::Walk walk(law, 5);
    std::complex<long double> found;
    for (int k = 0; k <= 4; ++k) found = walk.next();
    const Oracle q("0.1"), s("0.8"), pi = boost::math::constants::pi<Oracle>();
    // The parameters of the law are the nearest long doubles; the difference is below its error.
    Oracle whole = 0, real = 0, imaginary = 0;
    const Oracle width = Oracle(1) / 400;
    for (int j = -5000; j <= 10000; ++j) {
      const Oracle x = width * j;
      const Oracle loss =
          log(1 - q + q * exp((2 * x - 1) / (2 * s * s))) * (change == RecordChange::kRemoved ? 1 : -1);
      const Oracle power = change == RecordChange::kRemoved ? Oracle(1 + theta) : Oracle(theta);
      const Oracle weight = exp(-x * x / (2 * s * s) + power * loss);
      whole += weight;
      real += weight * cos(Oracle(t) * loss);
      imaginary += weight * sin(Oracle(t) * loss);
    }
    EXPECT_LE(std::fabs(found.real() - static_cast<long double>(real / whole)), law.error(t));
    EXPECT_LE(std::fabs(found.imag() - static_cast<long double>(imaginary / whole)), law.error(t));
    const auto log_moment = static_cast<long double>(log(whole * width / (s * sqrt(2 * pi))));
    EXPECT_LE(std::fabs(law.log_moment() - log_moment), law.error(0));
    EXPECT_LT(law.error(t), 1e-14L);
  }
}

TEST(TiltedLaw, CharacteristicFunctionStaysBelowItsDecay) {
  for (const RecordChange change : {RecordChange::kRemoved, RecordChange::kAdded}) {
    for (const double q : {0.003, 0.2, 0.95}) {
      const long double theta = 4, most = 2000;
      const TiltedLaw law(q, 0.9L, change, theta, most);
      TiltedLaw::Walk walk(law, most / 500);
      std::vector<long double> sizes;
      for (int k = 0; k <= 500; ++k) sizes.push_back(std::abs(walk.next()));
      long double later = 0;  // the largest from here on
      for (int k = 500; k > 0; --k) {
        later = std::max(later, sizes[static_cast<size_t>(k)]);
        if (k % 25 != 0) continue;  // the bound is costly
        ASSERT_LE(later, law.decay(most / 500 * k) + law.error(most)) << q << " " << k;
      }
      EXPECT_LT(law.decay(1e6), 1);
    }
  }
}

}  // namespace
}  // namespace dpfa::accounting
