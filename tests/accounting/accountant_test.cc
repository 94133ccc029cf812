// What users rely on: bounds on the right side, monotone, exact where a closed form exists; calibration that
// never exceeds its target.
#include "accounting/accountant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <boost/math/distributions/normal.hpp>

#include "accounting/hockey_stick.h"
#include "accounting/lower_bound.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

using Sampled = PoissonSampledGaussianEvent;

double phi(double x) { return boost::math::cdf(boost::math::normal(), x); }

TEST(HockeyStick, OneSampledStepEqualsTheTwoTailProbabilities) {
  for (double q : {0.01, 0.3, 0.8, 1.0}) {
    for (double sigma : {0.5, 1.0, 3.0}) {
      const LogDelta base = [sigma](double e) { return gaussian_log_delta(sigma, e); };
      for (double epsilon : {0.0, 0.005, 0.2, 1.0}) {
        const double z = sigma * sigma * std::log(std::expm1(epsilon) / q + 1) + 0.5;
        const double remove =
            (1 - q) * phi(-z / sigma) + q * phi(-(z - 1) / sigma) - std::exp(epsilon) * phi(-z / sigma);
        EXPECT_NEAR(std::exp(sampled_log_delta(base, q, epsilon, Direction::kRemove)), remove, 1e-14);
        const double inner = std::expm1(-epsilon) / q + 1;
        double add = 0;
        if (inner > 0) {
          const double y = sigma * sigma * std::log(inner) + 0.5;
          add = phi(y / sigma) - std::exp(epsilon) * ((1 - q) * phi(y / sigma) + q * phi((y - 1) / sigma));
        }
        EXPECT_NEAR(std::exp(sampled_log_delta(base, q, epsilon, Direction::kAdd)), add, 1e-14);
      }
    }
  }
}

TEST(Accountant, TrueValuesLieBetweenTheBounds) {
  // True epsilons of accounting.md 2.2-2.4 and 3, computed there by an independent method.
  struct Known {
    double q, sigma;
    int64_t steps;
    double delta, epsilon;
  };
  for (const Known& k : std::vector<Known>{{0.01, 1, 10000, 1e-6, 6.9073845},
                                           {0.001, 0.8, 100000, 1e-12, 4.6466},
                                           {0.001, 1, 1000000, 1e-12, 9.7964},
                                           {1e-4, 1, 1000000, 1e-8, 0.65811},
                                           {0.04, 1.5, 2250, 1e-5, 6.7688},
                                           {1e-4, 0.6, 100000, 1e-8, 1.9536}}) {
    const EpsilonReport report = epsilon_of(Sampled{k.q, k.sigma}, k.steps, k.delta);
    // Each truth is rounded to its last digit.
    EXPECT_GE(report.epsilon, k.epsilon * (1 - 1e-5));
    EXPECT_LE(report.epsilon, k.epsilon * 1.0015);
    EXPECT_LE(report.lower_bound, k.epsilon * (1 + 1e-5));
    EXPECT_GE(report.lower_bound, k.epsilon * 0.995);
    EXPECT_EQ(report.accountant, "pld");
  }
}

TEST(Accountant, LowerBoundNeverExceedsTheUpperOne) {
  for (double q : {1e-7, 1e-4, 0.01, 0.2, 0.7, 1.0}) {
    for (double sigma : {0.2, 1.0, 4.0, 300.0}) {
      for (int64_t steps : {1, 30, 1000000}) {
        for (double delta : {1e-12, 1e-5, 0.01}) {
          const EpsilonReport report = epsilon_of(Sampled{q, sigma}, steps, delta);
          EXPECT_LE(report.lower_bound, report.epsilon) << q << " " << sigma << " " << steps << " " << delta;
          EXPECT_GE(report.lower_bound, 0);
          EXPECT_TRUE(std::isfinite(report.epsilon));
        }
      }
    }
  }
}

TEST(Accountant, SumBoundOfOneStepIsTheExactEpsilon) {
  const EpsilonReport exact = epsilon_of(Sampled{0.1, 1}, 1, 1e-5);
  EXPECT_EQ(exact.accountant, "one_step");
  EXPECT_NEAR(sum_epsilon_lower_bound(0.1, 1, 1, 1e-5), exact.epsilon, 1e-5);
  EXPECT_LE(sum_epsilon_lower_bound(0.1, 1, 1, 1e-5), exact.epsilon);
}

TEST(Accountant, EpsilonGrowsWithStepsAndRateAndFallsWithNoiseAndDelta) {
  for (double q : {0.001, 0.05}) {
    for (double sigma : {0.6, 2.0}) {
      for (int64_t steps : {1, 10, 3000}) {
        for (double delta : {1e-8, 1e-4}) {
          const double epsilon = epsilon_upper_bound(Sampled{q, sigma}, steps, delta);
          EXPECT_GE(epsilon_upper_bound(Sampled{q, sigma}, steps + 1, delta), epsilon);
          EXPECT_GE(epsilon_upper_bound(Sampled{1.1 * q, sigma}, steps, delta), epsilon);
          EXPECT_LE(epsilon_upper_bound(Sampled{q, 1.1 * sigma}, steps, delta), epsilon);
          EXPECT_LE(epsilon_upper_bound(Sampled{q, sigma}, steps, 2 * delta), epsilon);
        }
      }
    }
  }
}

TEST(Accountant, DeltaIsAProbabilityThatFallsConvexlyInTheExponentialOfEpsilon) {
  const Sampled event{0.02, 0.9};
  std::vector<double> growth, deltas;
  for (double g = 1; g < 60; g += 2) {
    growth.push_back(g);
    deltas.push_back(delta_of(event, 1, std::log(g)));  // exact, hence convex
  }
  EXPECT_LE(deltas[0], 1);
  for (size_t i = 1; i < deltas.size(); ++i) {
    EXPECT_GE(deltas[i], 0);
    EXPECT_LE(deltas[i], deltas[i - 1]);
    EXPECT_LE(delta_of(event, 500, std::log(growth[i])), delta_of(event, 500, std::log(growth[i - 1])));
  }
  for (size_t i = 2; i < deltas.size(); ++i) {
    EXPECT_LE(deltas[i - 1], (deltas[i] + deltas[i - 2]) / 2 * (1 + 1e-9));
  }
}

TEST(Accountant, DeltaOfTheReportedEpsilonIsTheDeltaAskedFor) {
  for (int64_t steps : {1, 20, 4000}) {
    for (double delta : {1e-9, 1e-5, 1e-3}) {
      const double epsilon = epsilon_upper_bound(Sampled{0.03, 0.8}, steps, delta);
      EXPECT_NEAR(delta_of(Sampled{0.03, 0.8}, steps, epsilon), delta, 0.02 * delta);
    }
  }
}

TEST(Accountant, FullSamplingIsThePlainGaussianComposed) {
  const EpsilonReport sampled = epsilon_of(Sampled{1, 20}, 100, 1e-5);
  const EpsilonReport plain = epsilon_of(GaussianEvent{2}, 1, 1e-5);
  EXPECT_EQ(sampled.accountant, "gaussian");
  EXPECT_NEAR(sampled.epsilon, plain.epsilon, 1e-12);
  EXPECT_NEAR(phi(1 / 4.0 - 2 * plain.epsilon) - std::exp(plain.epsilon) * phi(-1 / 4.0 - 2 * plain.epsilon),
              1e-5, 1e-15);
}

TEST(Accountant, CountsAndOrderOfChargesDoNotMatter) {
  const Sampled a{0.01, 1}, b{0.02, 1.5};
  std::vector<Charge> one_by_one(7, Charge{a, 1});
  EXPECT_EQ(epsilon_of(one_by_one, 1e-6).epsilon, epsilon_of(a, 7, 1e-6).epsilon);
  const std::vector<Charge> ab = {{a, 100}, {b, 30}}, ba = {{b, 10}, {a, 60}, {b, 20}, {a, 40}};
  EXPECT_EQ(epsilon_of(ab, 1e-6).epsilon, epsilon_of(ba, 1e-6).epsilon);
  EXPECT_GT(epsilon_of(ab, 1e-6).epsilon, epsilon_of(a, 100, 1e-6).epsilon);
  const std::vector<Charge> gaussians = {{GaussianEvent{3}, 1}, {GaussianEvent{4}, 1}};
  EXPECT_NEAR(epsilon_of(gaussians, 1e-6).epsilon, epsilon_of(GaussianEvent{2.4}, 1, 1e-6).epsilon, 1e-9);
}

TEST(Accountant, NothingCostsNothingAndNoNoiseCostsEverything) {
  EXPECT_EQ(epsilon_of(Sampled{0.1, 1}, 0, 1e-5).epsilon, 0);
  EXPECT_EQ(epsilon_of(Sampled{0, 1}, 10, 1e-5).epsilon, 0);
  EXPECT_EQ(epsilon_of(Sampled{0.1, 0}, 1, 1e-5).epsilon, std::numeric_limits<double>::infinity());
  EXPECT_EQ(epsilon_of(Sampled{0.1, 1}, 5, 0).epsilon, std::numeric_limits<double>::infinity());
  EXPECT_EQ(delta_of(Sampled{0.1, 0}, 1, 3), 1);
}

TEST(Accountant, ArgumentsOutOfRangeAreConfigErrors) {
  EXPECT_THROW(epsilon_of(Sampled{1.5, 1}, 1, 1e-5), ConfigError);
  EXPECT_THROW(epsilon_of(Sampled{0.1, -1}, 1, 1e-5), ConfigError);
  EXPECT_THROW(epsilon_of(Sampled{0.1, std::nan("")}, 1, 1e-5), ConfigError);
  EXPECT_THROW(epsilon_of(Sampled{0.1, 1}, -1, 1e-5), ConfigError);
  EXPECT_THROW(epsilon_of(Sampled{0.1, 1}, 1, 1.0), ConfigError);
  EXPECT_THROW(epsilon_of(Sampled{0.1, 1}, 1, std::nan("")), ConfigError);
  EXPECT_THROW(delta_of(Sampled{0.1, 1}, 1, -1), ConfigError);
}

}  // namespace
}  // namespace dpfa::accounting
