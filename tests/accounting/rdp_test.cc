// Renyi divergences against 50-digit arithmetic: the textbook formulas, evaluated without any rearrangement.
#include "accounting/rdp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <boost/math/special_functions/bessel.hpp>
#include <boost/multiprecision/cpp_bin_float.hpp>

#include "accounting/mechanism_rdp.h"

namespace dpfa::accounting {
namespace {

using Wide = boost::multiprecision::cpp_bin_float_50;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// log E_N0[r^power] / divisor by the trapezoid rule on r^power itself. 50 digits leave 20 after the
// cancellation of E - 1 = 1e-30. Step sigma / 5: quadrature error e^(-2 pi^2 5) = 1e-43; window 16: e^-128.
Wide moment_oracle(double q, double sigma, double power) {
  const Wide s = sigma, rate = q;
  const Wide step = (sigma < 1 ? s : Wide(1)) / 5;
  const double end = std::max(power, 1.0) / sigma + 16;
  const double start = -16 + std::min(power, 0.0) / sigma;
  Wide sum = 0;
  for (Wide t = floor(Wide(start) / step) * step; t <= end; t += step) {
    const Wide ratio = (1 - rate) + rate * exp((2 * s * t - 1) / (2 * s * s));
    sum += exp(Wide(power) * log(ratio) - t * t / 2);
  }
  return log(sum * step / sqrt(2 * boost::math::constants::pi<Wide>()));
}

Wide rdp_oracle(double q, double sigma, double order) {
  return moment_oracle(q, sigma, order) / (Wide(order) - 1);
}

Wide binomial_oracle(double q, double sigma, int order) {
  const Wide rate = q, s = sigma;
  Wide sum = 0, binomial = 1;
  for (int k = 0; k <= order; ++k) {
    sum += binomial * pow(rate, k) * pow(1 - rate, order - k) * exp(Wide(k) * (k - 1) / (2 * s * s));
    binomial = binomial * (order - k) / (k + 1);
  }
  return log(sum) / (order - 1);
}

double relative_error(double value, const Wide& expected) {
  return static_cast<double>(abs((Wide(value) - expected) / expected));
}

struct Point {
  double q, sigma, order;
};

TEST(SampledGaussianRdp, EqualsFiftyDigitQuadratureAtFractionalOrders) {
  // The first six are where published series go wrong: a dropped or 20 % wrong order, and a negative value.
  const std::vector<Point> points = {
      {0.1, 1.0, 1.1},   {0.1, 1.0, 1.6},    {0.01, 0.5, 1.1}, {0.5, 0.3, 1.3},    {0.9, 0.5, 1.2},
      {0.4, 12, 59.1},   {1e-5, 5, 1.5},     {1e-7, 10, 1.01}, {0.01, 2.5, 1.5},   {0.001, 0.6, 7.3},
      {0.2, 0.1, 2.25},  {0.03, 0.07, 3.5},  {0.5, 100, 20.5}, {0.999, 1.0, 1.05}, {1e-3, 4, 31.7},
      {0.25, 0.2, 25.5}, {0.01, 1.0, 1.0001}};
  for (const Point& p : points) {
    EXPECT_LT(relative_error(sampled_gaussian_rdp(p.q, p.sigma, p.order), rdp_oracle(p.q, p.sigma, p.order)),
              1e-12)
        << p.q << " " << p.sigma << " " << p.order;
  }
}

TEST(SampledGaussianRdp, OneGridServesASpreadOfRatesNoisesAndOrders) {
  double worst = 0;
  for (double q : {1e-6, 0.01, 0.4, 0.999999}) {
    for (double sigma : {0.3, 1.0, 12.0, 100.0}) {
      SampledGaussianRdp rdp(q, sigma);
      for (double order : {59.1, 1.0001, 3.7, 1.1, 10.3}) {  // not in order: the grid grows and is used again
        if (order / sigma > 80) continue;                    // whole orders cover it below
        worst = std::max(worst, relative_error(rdp(order), rdp_oracle(q, sigma, order)));
      }
      for (int order : {2, 64, 1000}) {
        worst = std::max(worst, relative_error(rdp(order), binomial_oracle(q, sigma, order)));
      }
    }
  }
  EXPECT_LT(worst, 1e-12);
}

TEST(SampledGaussianRdp, EqualsFiftyDigitBinomialSumAtWholeOrders) {
  const std::vector<Point> points = {{1e-7, 10, 2}, {1e-7, 10, 64}, {0.01, 1, 8},   {0.01, 2.5, 50},
                                     {0.5, 0.5, 3}, {0.9, 3, 200},  {1e-3, 4, 220}, {0.001, 20, 1024},
                                     {0.3, 0.1, 5}, {0.02, 1, 256}};
  for (const Point& p : points) {
    const Wide expected = binomial_oracle(p.q, p.sigma, static_cast<int>(p.order));
    EXPECT_LT(relative_error(sampled_gaussian_rdp(p.q, p.sigma, p.order), expected), 1e-12)
        << p.q << " " << p.sigma << " " << p.order;
  }
}

TEST(SampledGaussianRdp, EqualsFiftyDigitQuadratureInTheAddDirection) {
  for (const Point& p :
       std::vector<Point>{{0.1, 1, 1.5}, {0.1, 1, 8}, {0.01, 0.5, 3.25}, {0.9, 0.5, 4}, {1e-5, 5, 2}}) {
    const Wide expected = moment_oracle(p.q, p.sigma, 1 - p.order) / (Wide(p.order) - 1);
    EXPECT_LT(relative_error(sampled_gaussian_rdp(p.q, p.sigma, p.order, Direction::kAdd), expected), 1e-12)
        << p.q << " " << p.sigma << " " << p.order;
  }
}

TEST(SampledGaussianRdp, PublishedValueAboveTheTruthIsNotReproduced) {
  // 6.70579741e-4 is a published figure for 50 steps; the truth is 3 % lower.
  EXPECT_NEAR(50 * sampled_gaussian_rdp(0.01, 2.5, 1.5), 6.500709e-4, 1e-9);
}

TEST(SampledGaussianRdp, RemoveDirectionIsNeverTheSmallerOne) {
  for (double q : {1e-4, 0.01, 0.3, 0.9}) {
    for (double sigma : {0.3, 1.0, 5.0}) {
      for (double order : {1.0, 1.05, 1.5, 2.0, 7.5, 32.0, 200.0}) {
        EXPECT_GE(sampled_gaussian_rdp(q, sigma, order) * (1 + 1e-11),
                  sampled_gaussian_rdp(q, sigma, order, Direction::kAdd))
            << q << " " << sigma << " " << order;
      }
    }
  }
}

TEST(SampledGaussianRdp, GrowsWithOrderAndRateAndFallsWithNoise) {
  for (double sigma : {0.05, 0.2, 0.9, 3.0, 40.0}) {
    for (double q : {1e-6, 0.01, 0.4}) {
      double before = 0;
      for (double order :
           {1.0, 1.001, 1.01, 1.2, 1.9, 2.0, 2.1, 5.0, 5.5, 31.9, 32.0, 100.0, 4096.0, 70000.0}) {
        const double value = sampled_gaussian_rdp(q, sigma, order);
        EXPECT_GE(value, before * (1 - 1e-11)) << q << " " << sigma << " " << order;
        EXPECT_GE(sampled_gaussian_rdp(2 * q, sigma, order), value);
        EXPECT_LE(sampled_gaussian_rdp(q, 1.1 * sigma, order), value);
        EXPECT_LE(value, order / (2 * sigma * sigma));
        before = value;
      }
    }
  }
}

TEST(SampledGaussianRdp, EdgesAreThePlainGaussianNothingAndInfinity) {
  EXPECT_DOUBLE_EQ(sampled_gaussian_rdp(1, 2, 3), 3 / 8.0);
  EXPECT_EQ(sampled_gaussian_rdp(0, 2, 3), 0);
  EXPECT_EQ(sampled_gaussian_rdp(0.1, 0, 3), kInfinity);
  EXPECT_EQ(sampled_gaussian_rdp(0.1, 2, kInfinity), kInfinity);
  EXPECT_DOUBLE_EQ(sampled_gaussian_rdp(0.1, 2, kInfinity, Direction::kAdd), -std::log1p(-0.1));
}

TEST(Conversion, FailedDivergenceIsInfiniteEpsilonAndNeverZero) {
  EXPECT_EQ(epsilon_from_rdp(-30.2, 59.1, 1e-5), kInfinity);
  EXPECT_EQ(epsilon_from_rdp(std::nan(""), 2, 1e-5), kInfinity);
  EXPECT_EQ(log_delta_from_rdp(-1, 2, 1), 0);
}

TEST(Conversion, EpsilonIsZeroWhereDeltaExceedsTheTotalVariationBound) {
  // One step of q = 0.00105, sigma = 1: the exact delta at epsilon 0 is 4.02e-4, below 1e-3.
  EXPECT_EQ(best_epsilon([](double order) { return sampled_gaussian_rdp(0.00105, 1, order); }, 1e-3).value,
            0);
}

TEST(Conversion, SearchFindsOrdersAtBothEndsOfTheRange) {
  // Orders where fixed published grids stop: 1.04 and beyond 1024.
  const OrderBound low =
      best_epsilon([](double a) { return 5000 * sampled_gaussian_rdp(0.5, 0.5, a); }, 1e-5);
  EXPECT_LT(low.value, 3848);
  EXPECT_LT(low.order, 1.06);
  const RdpCurve weak = [](double a) { return a / (2 * 1e8); };
  const OrderBound high = best_epsilon(weak, 1e-6);
  EXPECT_GT(high.order, 10000);
  EXPECT_LE(high.value, epsilon_from_rdp(weak(1024), 1024, 1e-6) / 10);
}

TEST(MechanismRdp, LaplaceEqualsItsIntegral) {
  for (const auto& [b, order] :
       std::vector<std::pair<double, double>>{{1, 2}, {1, 1.001}, {1e4, 1.01}, {0.1, 40}}) {
    const Wide e = 1 / Wide(b), a = order;
    const Wide expected =
        log(a / (2 * a - 1) * exp((a - 1) * e) + (a - 1) / (2 * a - 1) * exp(-a * e)) / (a - 1);
    EXPECT_LT(relative_error(laplace_rdp(b, order), expected), 1e-11) << b << " " << order;
  }
}

TEST(MechanismRdp, DiscreteGaussianMeetsItsBoundAtWholeOrdersOnly) {
  EXPECT_NEAR(discrete_gaussian_rdp(0.7, 1, 3), 3 / (2 * 0.49), 1e-12);
  EXPECT_LT(discrete_gaussian_rdp(0.4, 1, 1.5), 1.5 / (2 * 0.16) - 0.3);
}

TEST(MechanismRdp, SkellamEqualsTheSumOverItsProbabilitiesAndStaysBelowItsBound) {
  for (double variance : {2.0, 10.0, 40.0}) {
    for (double order : {2.0, 3.0, 8.0}) {
      Wide sum = 0;
      for (int x = -60; x <= 60 + 4 * static_cast<int>(order); ++x) {
        const Wide with = boost::math::cyl_bessel_i(std::abs(x - 1), Wide(variance));
        const Wide without = boost::math::cyl_bessel_i(std::abs(x), Wide(variance));
        sum += pow(with, static_cast<int>(order)) / pow(without, static_cast<int>(order) - 1);
      }
      const Wide expected = (log(sum) - variance) / (order - 1);
      const double exact = skellam_rdp(variance, 1, order);
      EXPECT_LT(relative_error(exact, expected), 1e-11) << variance << " " << order;
      EXPECT_LE(exact, skellam_rdp_bound(variance, 1, 1, order));
    }
  }
}

TEST(MechanismRdp, DifferenceMomentEqualsTheAlternatingSum) {
  for (const auto& [sigma, power] :
       std::vector<std::pair<double, int>>{{1.0, 2}, {2.0, 8}, {5.0, 12}, {0.5, 4}}) {
    Wide sum = 0, binomial = 1;
    for (int i = 0; i <= power; ++i) {
      sum += (i % 2 == 0 ? binomial : -binomial) * exp(Wide(i) * (i - 1) / (2 * Wide(sigma) * sigma));
      binomial = binomial * (power - i) / (i + 1);
    }
    EXPECT_NEAR(log_even_difference_moment(sigma, power), static_cast<double>(log(sum)), 1e-10)
        << sigma << " " << power;
  }
}

}  // namespace
}  // namespace dpfa::accounting
