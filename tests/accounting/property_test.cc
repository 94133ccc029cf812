// What holds for every accountant, at random points with a fixed seed: monotone, consistent, never below a
// part.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/calibrate.h"
#include "accounting/hockey_stick.h"
#include "accounting/inversion.h"
#include "accounting/rdp.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

// Bounds are searched to some tolerance: what is equal in theory may differ by this much, relative.
constexpr double kSame = 1e-3;

struct Point {
  PoissonSampledGaussianEvent event;
  int64_t steps;
  double delta;
};

std::ostream& operator<<(std::ostream& out, const Point& p) {
  return out << "q=" << p.event.sample_rate << " s=" << p.event.noise_multiplier << " T=" << p.steps
             << " delta=" << p.delta;
}

std::vector<Point> points(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto between = [&](double low, double high) {
    return std::exp(std::uniform_real_distribution<double>(std::log(low), std::log(high))(random));
  };
  std::vector<Point> list;
  for (int i = 0; i < count; ++i) {
    const PoissonSampledGaussianEvent event{between(1e-3, 0.5), between(0.6, 8)};
    list.push_back({event, static_cast<int64_t>(between(1, 5000)), between(1e-9, 1e-3)});
  }
  return list;
}

double epsilon(const Point& p) { return epsilon_upper_bound(p.event, p.steps, p.delta); }

// Never below, but for the tolerance of a search.
void expect_no_less(double larger, double smaller, const Point& p) {
  EXPECT_GE(larger, smaller * (1 - kSame) - 1e-9) << p;
}

TEST(AccountingProperties, EpsilonGrowsWithStepsAndRateAndShrinksWithNoiseAndDelta) {
  for (const Point& p : points(20, 1)) {
    const double base = epsilon(p);
    Point more = p;
    more.steps = 2 * p.steps;
    expect_no_less(epsilon(more), base, p);
    more = p, more.event.sample_rate *= 1.3;
    expect_no_less(epsilon(more), base, p);
    more = p, more.event.noise_multiplier /= 1.3;
    expect_no_less(epsilon(more), base, p);
    more = p, more.delta /= 10;
    expect_no_less(epsilon(more), base, p);
  }
}

TEST(AccountingProperties, LowerBoundIsNeverAboveTheReportedEpsilon) {
  for (const Point& p : points(20, 2)) {
    const EpsilonReport report = epsilon_of(p.event, p.steps, p.delta);
    EXPECT_LE(report.lower_bound, report.epsilon) << p;
    EXPECT_GE(report.lower_bound, 0) << p;
  }
}

TEST(AccountingProperties, SecondDerivationLiesBetweenTheBounds) {
  int derived = 0;
  for (const Point& p : points(12, 3)) {
    const EpsilonReport report = epsilon_of(p.event, p.steps, p.delta);
    const GaussianSteps steps{p.event.sample_rate, p.event.noise_multiplier, p.steps};
    const EpsilonBracket bracket = certified_epsilon(std::span(&steps, 1), p.delta, report.epsilon);
    if (!bracket.reason.empty()) continue;
    ++derived;
    EXPECT_GE(report.epsilon, bracket.lower * (1 - 1e-9)) << p;
    EXPECT_LE(report.lower_bound, bracket.upper * (1 + 1e-9)) << p;
  }
  EXPECT_GE(derived, 6);
}

TEST(AccountingProperties, DeltaFallsAndIsConvexInTheExponentialOfEpsilon) {
  for (const Point& p : points(6, 4)) {
    const double top = epsilon(p);
    double before = 1, before_that = 1;
    const double step = std::expm1(top) / 8;  // equal steps of e^epsilon
    for (int i = 0; i <= 8; ++i) {
      const double delta = delta_of(p.event, p.steps, std::log1p(step * i));
      EXPECT_GE(delta, 0) << p;
      EXPECT_LE(delta, before * (1 + 1e-9)) << p;
      if (i >= 2) {
        EXPECT_GE(before_that - before, (before - delta) * (1 - 0.01) - 1e-6 * before_that) << p;
      }
      before_that = before, before = delta;
    }
  }
}

TEST(AccountingProperties, EpsilonAtTheDeltaOfAnEpsilonIsThatEpsilon) {
  for (const Point& p : points(8, 5)) {
    const double target = 0.5 * epsilon(p);
    const double delta = delta_of(p.event, p.steps, target);
    if (!(delta > 0 && delta < 0.5)) continue;
    const double back = epsilon_upper_bound(p.event, p.steps, delta);
    EXPECT_NEAR(back, target, 2e-3 * target + 1e-6) << p;
  }
}

TEST(AccountingProperties, OneRateIsTheGaussianAndOneStepItsClosedForm) {
  for (const Point& p : points(20, 6)) {
    Point plain = p;
    plain.event.sample_rate = 1;
    const double sigma = p.event.noise_multiplier / std::sqrt(static_cast<double>(p.steps));
    const double exact = smallest_epsilon([=](double e) { return gaussian_log_delta(sigma, e); }, p.delta);
    EXPECT_NEAR(epsilon(plain), exact, 1e-9 * exact) << p;
    Point one = p;
    one.steps = 1;
    const LogDelta base = [&](double e) { return gaussian_log_delta(p.event.noise_multiplier, e); };
    const auto worse = [&](double e) {
      return std::max(sampled_log_delta(base, p.event.sample_rate, e, Direction::kRemove),
                      sampled_log_delta(base, p.event.sample_rate, e, Direction::kAdd));
    };
    const double closed = smallest_epsilon(worse, p.delta);
    EXPECT_NEAR(epsilon(one), closed, 1e-9 * closed + 1e-12) << p;
  }
}

TEST(AccountingProperties, NeitherOrderNorGroupingOfChargesMatters) {
  const std::vector<Point> some = points(9, 7);
  for (size_t i = 0; i + 3 <= some.size(); i += 3) {
    std::vector<Charge> charges, split;
    for (size_t j = i; j < i + 3; ++j) {
      charges.push_back({some[j].event, some[j].steps});
      split.push_back({some[j].event, some[j].steps / 3});
      split.insert(split.begin(), {some[j].event, some[j].steps - some[j].steps / 3});
    }
    const double together = epsilon_of(charges, 1e-6).epsilon;
    EXPECT_EQ(epsilon_of(split, 1e-6).epsilon, together) << some[i];
    std::reverse(charges.begin(), charges.end());
    EXPECT_EQ(epsilon_of(charges, 1e-6).epsilon, together) << some[i];
  }
}

TEST(AccountingProperties, ACompositionIsNeverBelowItsParts) {
  const std::vector<Point> some = points(8, 8);
  for (size_t i = 0; i + 2 <= some.size(); i += 2) {
    const std::vector<Charge> both = {{some[i].event, some[i].steps}, {some[i + 1].event, some[i + 1].steps}};
    const double together = epsilon_of(both, 1e-6).epsilon;
    for (const Charge& part : both)
      expect_no_less(together, epsilon_upper_bound(part.event, part.count, 1e-6), some[i]);
  }
}

TEST(AccountingProperties, CalibratedParametersMeetTheirTargetAndBarely) {
  for (const Point& p : points(5, 9)) {
    const double target = 1 + 3 * p.event.sample_rate;
    const double noise = noise_multiplier_for(target, p.delta, p.event.sample_rate, p.steps);
    const auto at = [&](double s) {
      return epsilon_upper_bound(PoissonSampledGaussianEvent{p.event.sample_rate, s}, p.steps, p.delta);
    };
    EXPECT_LE(at(noise), target) << p;
    EXPECT_GT(at(noise * 0.99), target) << p;
    const int64_t steps = steps_for(target, p.delta, p.event.sample_rate, p.event.noise_multiplier);
    EXPECT_LE(epsilon_upper_bound(p.event, steps, p.delta), target) << p;
    EXPECT_GT(epsilon_upper_bound(p.event, steps + 1 + steps / 50, p.delta), target) << p;
  }
}

TEST(AccountingProperties, EdgesAreInfinityAndZeroAndUnknownEventsAreErrors) {
  EXPECT_TRUE(std::isinf(epsilon_upper_bound(PoissonSampledGaussianEvent{0.1, 0}, 5, 1e-6)));
  EXPECT_EQ(epsilon_upper_bound(PoissonSampledGaussianEvent{0, 1}, 5, 1e-6), 0);
  EXPECT_EQ(epsilon_upper_bound(PoissonSampledGaussianEvent{0.1, 1}, 0, 1e-6), 0);
  EXPECT_THROW(event_from_json({{"mechanism", "unheard_of"}}), Unsupported);
  EXPECT_THROW(event_from_json({{"mechanism", "gaussian"}, {"noise_multiplier", 1}, {"discount", 2}}),
               Unsupported);
}

}  // namespace
}  // namespace dpfa::accounting
