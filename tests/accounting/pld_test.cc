// Bounds from privacy loss distributions: against closed forms, 50-digit sums and integrals, an independent
// derivation, and themselves on other grids.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <boost/math/special_functions/erf.hpp>
#include <boost/multiprecision/cpp_bin_float.hpp>

#include "accounting/accountant.h"
#include "accounting/event_loss.h"
#include "accounting/finite_loss.h"
#include "accounting/hockey_stick.h"
#include "accounting/inversion.h"
#include "accounting/normal_distribution.h"
#include "accounting/pld/composition.h"

namespace dpfa::accounting {
namespace {

using Real = boost::multiprecision::cpp_bin_float_50;
using Pairs = std::vector<PairCount>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Real cdf(const Real& x) { return boost::math::erfc(-x / sqrt(Real(2))) / 2; }

// Two steps: the mean of the second one's delta over the loss of the first, by the trapezoid rule. All
// derivatives of the integrand vanish at its ends, so finer rules change nothing beyond what is returned.
double two_step_delta(double q, double s, double epsilon) {
  using Number = long double;
  const auto delta = [&](Number e) -> Number {
    const Number inner = 1 + std::expm1(e) / q;
    if (inner <= 0) return -std::expm1(e);
    const Number z = s * s * std::log(inner) + 0.5L;
    return (1 - q) * normal_cdf(-z / s) + q * normal_cdf((1 - z) / s) - std::exp(e) * normal_cdf(-z / s);
  };
  const auto sum_of = [&](int places) {
    const Number width = s / Number(places);
    Number sum = 0;
    for (int i = -15 * places; i <= 15 * places; ++i) {
      const Number z = 0.5L + width * i;
      const Number without = std::exp(-z * z / (2 * s * s)),
                   with = std::exp(-(z - 1) * (z - 1) / (2 * s * s));
      const Number density = (1 - q) * without + q * with;
      sum += density * delta(epsilon - std::log(density / without));
    }
    return static_cast<double>(sum * width / (s * std::sqrt(2 * boost::math::constants::pi<Number>())));
  };
  const double value = sum_of(2000);
  EXPECT_NEAR(sum_of(1000), value, 1e-5 * value);
  return value;
}

void expect_bracket(const Pairs& pairs, double epsilon, double exact, double width, Ways ways = Ways::kBoth) {
  const double upper = std::exp(loss_log_delta_upper(pairs, epsilon, ways));
  const double lower = std::exp(loss_log_delta_lower(pairs, epsilon, ways));
  EXPECT_GE(upper, exact * (1 - 1e-13)) << "epsilon " << epsilon;
  EXPECT_LE(lower, exact * (1 + 1e-13)) << "epsilon " << epsilon;
  // One grid and one rounding for all losses: 1e-12 of all mass is the limit of one release.
  EXPECT_LE(upper - lower, width * exact + 1e-12)
      << "epsilon " << epsilon << ": " << lower << " to " << upper;
}

TEST(LossPair, CellsHoldTheirMassesToTheStatedError) {
  for (double q : {1e-6, 0.01, 0.9, 1.0}) {
    for (double s : {0.3, 1.0, 20.0}) {
      const LossPair pair = LossPair::sampled_gaussian(q, s);
      const auto place = [&](const Real& loss) -> Real {
        const Real inner = 1 + (exp(loss) - 1) / Real(q);
        return inner <= 0 ? Real(-1e9) : Real(s) * s * log(inner) + Real(1) / 2;
      };
      for (double loss : {-2.0, -1e-3, -1e-7, 1e-7, 1e-3, 0.4, 12.0}) {
        const double from = loss, to = loss + 0.01 * std::abs(loss);
        const LossCell cell = pair.cells(std::array{from, to}, std::array{from}).front();
        const Real low = place(from), high = place(to);
        const auto between = [&](const Real& mean) {
          const Real a = (low - mean) / s, b = (high - mean) / s;
          return a > 0 ? Real(cdf(-a) - cdf(-b)) : Real(cdf(b) - cdf(a));
        };
        const Real p = (1 - Real(q)) * between(0) + Real(q) * between(1);
        const Real rise = p - exp(Real(from)) * between(0);
        EXPECT_LE(abs(Real(cell.p) - p), Real(cell.p_error) + Real(1e-300)) << q << " " << s << " " << loss;
        // The edges themselves are rounded, which moves masses whose ratio is that of the edge.
        EXPECT_LE(abs(Real(cell.rise) - rise), Real(cell.rise_error) + p * 1e-12)
            << q << " " << s << " " << loss;
      }
    }
  }
}

TEST(LossPair, ItsSwapExchangesTheTwoLaws) {
  const LossPair pair = LossPair::sampled_gaussian(0.2, 0.7), swapped = pair.swapped();
  const LossCell cell = pair.cells(std::array{0.1, 0.3}, std::array{0.0}).front();
  const LossCell other = swapped.cells(std::array{-0.3, -0.1}, std::array{0.0}).front();
  EXPECT_NEAR(other.p, cell.p - cell.rise, 1e-15);
  EXPECT_NEAR(other.rise, -cell.rise, 1e-15);
}

TEST(LossBounds, OneSampledGaussianIsBracketedInBothDirections) {
  for (double q : {1e-4, 0.05, 0.7, 1.0}) {
    for (double s : {0.4, 1.0, 6.0}) {
      const Pairs pairs = {{LossPair::sampled_gaussian(q, s), 1}};
      const LogDelta base = [s](double e) { return gaussian_log_delta(s, e); };
      for (double target : {0.3, 1e-3, 1e-9}) {
        const double start = q * target;
        const LogDelta remove = [&](double e) { return sampled_log_delta(base, q, e, Direction::kRemove); };
        const LogDelta add = [&](double e) { return sampled_log_delta(base, q, e, Direction::kAdd); };
        const double epsilon = smallest_epsilon(remove, start), other = smallest_epsilon(add, start);
        expect_bracket(pairs, epsilon, std::exp(remove(epsilon)), 0.05, Ways::kGiven);
        expect_bracket(pairs, other, std::exp(add(other)), 0.05, Ways::kSwapped);
      }
    }
  }
}

TEST(LossBounds, OneReplacementAndOneLaplaceAreBracketed) {
  for (double q : {0.1, 0.8}) {
    const LogDelta replaced = [q](double e) { return replaced_gaussian_log_delta(1.3, q, e); };
    const Pairs gaussian = {{LossPair::replaced_gaussian(q, 1.3), 1}};
    for (double epsilon : {0.1, 0.9}) expect_bracket(gaussian, epsilon, std::exp(replaced(epsilon)), 0.01);
    // Laplace of scale 0.8: 1 - e^((e - 1/b) / 2), sampled by substitution.
    const LogDelta base = [](double e) {
      return e >= 1.25 ? -kInfinity : std::log(-std::expm1((e - 1.25) / 2));
    };
    const Pairs laplace = {{LossPair::sampled_laplace(q, 0.8), 1}};
    for (double epsilon : {0.0, 0.05}) {
      expect_bracket(laplace, epsilon, std::exp(sampled_log_delta(base, q, epsilon, Direction::kRemove)),
                     0.02, Ways::kGiven);
    }
  }
}

TEST(LossBounds, TwoStepsAreBracketedByTheirIntegral) {
  for (double q : {0.02, 0.6}) {
    for (double s : {0.7, 2.0}) {
      const Pairs pairs = {{LossPair::sampled_gaussian(q, s), 2}};
      for (double epsilon : {0.02, 0.5, 1.2}) {
        const double exact = two_step_delta(q, s, epsilon);
        expect_bracket(pairs, epsilon, exact, 0.02, Ways::kGiven);
      }
    }
  }
}

TEST(LossBounds, FiniteLossesAreBracketedByTheirSums) {
  const std::vector<double> p = {0.5, 0.3, 0.2}, q = {0.2, 0.3, 0.5};
  const FiniteLoss one(p, q);
  for (int64_t count : {1, 2, 7, 40}) {
    const FiniteLoss all = one.repeated(count);
    for (double share : {0.1, 0.4}) {
      const double epsilon = share * 0.916 * static_cast<double>(count);
      expect_bracket({{LossPair::finite(p, q), count}}, epsilon, all.delta(epsilon), 0.05, Ways::kGiven);
    }
  }
}

TEST(LossBounds, InfiniteLossesCountInFull) {
  const Pairs pairs = {{LossPair::approximate_dp(0.4, 1e-6), 3}, {LossPair::approximate_dp(0.1, 2e-5), 2}};
  const double failure = -std::expm1(3 * std::log1p(-1e-6) + 2 * std::log1p(-2e-5));
  const double upper = std::exp(loss_log_delta_upper(pairs, 1.5)),
               lower = std::exp(loss_log_delta_lower(pairs, 1.5));
  EXPECT_GE(upper, failure);
  EXPECT_NEAR(upper, failure, 1e-6 * failure);
  EXPECT_LE(lower, failure);
  EXPECT_NEAR(lower, failure, 1e-6 * failure);
  EXPECT_EQ(loss_epsilon_upper(pairs, 0.5 * failure), kInfinity);
  EXPECT_EQ(loss_epsilon_lower(pairs, 0.5 * failure), kInfinity);
}

TEST(LossBounds, DoNotDependOnWhichNeighbourIsCalledP) {
  const LossPair pair = LossPair::finite({0.5, 0.5}, {0.1, 0.9});
  for (double delta : {1e-6, 1e-2}) {
    const Pairs given = {{pair, 8}}, swapped = {{pair.swapped(), 8}};
    const double epsilon = loss_epsilon_upper(given, delta);
    EXPECT_NEAR(loss_epsilon_upper(swapped, delta), epsilon, 1e-9 * epsilon);
    EXPECT_GT(
        loss_epsilon_upper(given, delta, Ways::kGiven) - loss_epsilon_upper(given, delta, Ways::kSwapped),
        0.5);
  }
}

TEST(LossBounds, AreSoundAndTightAtDeltasThatPlainTransformsLose) {
  // Exact values by importance sampling and long double transforms elsewhere, each to its last digit.
  struct Known {
    double q, sigma;
    int64_t steps;
    double delta, epsilon;
  };
  for (const Known& k : std::vector<Known>{{0.001, 0.8, 100000, 1e-12, 4.6466},
                                           {0.001, 1, 1000000, 1e-12, 9.7964},
                                           {1e-4, 1, 1000000, 1e-12, 0.86119},
                                           {0.01, 1, 10000, 1e-6, 6.9073845}}) {
    const Pairs pairs = {{LossPair::sampled_gaussian(k.q, k.sigma), k.steps}};
    EXPECT_GE(loss_epsilon_upper(pairs, k.delta), k.epsilon * (1 - 1e-5)) << k.q << " " << k.sigma;
    EXPECT_LE(loss_epsilon_upper(pairs, k.delta), k.epsilon * 1.0015) << k.q << " " << k.sigma;
    EXPECT_LE(loss_epsilon_lower(pairs, k.delta), k.epsilon * (1 + 1e-5)) << k.q << " " << k.sigma;
    EXPECT_GE(loss_epsilon_lower(pairs, k.delta), k.epsilon * 0.998) << k.q << " " << k.sigma;
  }
}

TEST(LossBounds, ContainTheSecondDerivation) {
  std::mt19937_64 random(20);
  const auto uniform = [&](double from, double to) {
    return from + (to - from) * static_cast<double>(random() >> 11) * 0x1p-53;
  };
  for (int i = 0; i < 12; ++i) {
    const double q = std::exp(uniform(std::log(1e-3), std::log(0.5))),
                 s = std::exp(uniform(std::log(0.6), std::log(8)));
    const double delta = std::exp(uniform(std::log(1e-10), std::log(1e-3)));
    const int64_t steps = std::llround(std::exp(uniform(std::log(2), std::log(1e6))));
    const Pairs pairs = {{LossPair::sampled_gaussian(q, s), steps}};
    const double upper = loss_epsilon_upper(pairs, delta), lower = loss_epsilon_lower(pairs, delta);
    const GaussianSteps same{q, s, steps};
    const EpsilonBracket exact = certified_epsilon(std::span(&same, 1), delta, upper);
    EXPECT_GE(upper, exact.lower) << q << " " << s << " " << steps << " " << delta;
    EXPECT_LE(lower, exact.upper) << q << " " << s << " " << steps << " " << delta;
    EXPECT_LE(upper, 1.002 * lower + 1e-6) << q << " " << s << " " << steps << " " << delta;
  }
}

TEST(LossBounds, LowerOnesNeverExceedUpperOnes) {
  for (double q : {1e-6, 1e-3, 0.3, 1.0}) {
    for (double s : {0.1, 0.3, 2.0, 100.0}) {
      for (int64_t steps : {1, 65, 5000, 10000000}) {
        const Pairs pairs = {{LossPair::sampled_gaussian(q, s), steps}};
        for (double delta : {1e-12, 1e-5, 0.2}) {
          EXPECT_LE(loss_epsilon_lower(pairs, delta), loss_epsilon_upper(pairs, delta))
              << q << " " << s << " " << steps << " " << delta;
        }
      }
    }
  }
}

TEST(LossBounds, FinerGridsComeNearerFromAbove) {
  const Pairs pairs = {{LossPair::sampled_gaussian(0.02, 1.1), 300}};
  const double lower = loss_epsilon_lower(pairs, 1e-5);
  double before = kInfinity;
  for (double step : {0.1, 0.03, 0.01, 0.003, 0.001}) {
    const double dots = loss_epsilon_on_grid(pairs, 1e-5, step, GridRule::kConnectDots);
    EXPECT_GE(loss_epsilon_on_grid(pairs, 1e-5, step, GridRule::kRoundUp), dots);
    EXPECT_GE(dots, lower);
    EXPECT_LT(dots, before);
    before = dots;
  }
  EXPECT_LE(before, lower * 1.001);
}

TEST(LossBounds, DistinctLossesComposeLikeTheirSum) {
  // Two kinds of steps, against the derivation that puts nothing on a grid.
  const Pairs pairs = {{LossPair::sampled_gaussian(0.01, 0.9), 400},
                       {LossPair::sampled_gaussian(0.03, 2), 900},
                       {LossPair::sampled_gaussian(1, 20), 1}};
  const std::vector<GaussianSteps> same = {{0.01, 0.9, 400}, {0.03, 2, 900}, {1, 20, 1}};
  const double upper = loss_epsilon_upper(pairs, 1e-6);
  const EpsilonBracket exact = certified_epsilon(same, 1e-6, upper);
  EXPECT_GE(upper, exact.lower);
  EXPECT_LE(upper, 1.001 * exact.upper);
  EXPECT_GE(loss_epsilon_lower(pairs, 1e-6), 0.999 * exact.lower);
  const Pairs reversed(pairs.rbegin(), pairs.rend());
  EXPECT_NEAR(loss_epsilon_upper(reversed, 1e-6), upper, 1e-4 * upper);
}

TEST(LossBounds, ManyDistinctLossesAreComposedInBlocks) {
  Pairs pairs;
  std::vector<GaussianSteps> same;
  for (int i = 0; i < 60; ++i) {
    const double q = 0.004 + 1e-4 * i, s = 0.8 + 0.01 * i;
    pairs.push_back({LossPair::sampled_gaussian(q, s), 1 + i % 7});
    same.push_back({q, s, 1 + i % 7});
  }
  const double upper = loss_epsilon_upper(pairs, 1e-6);
  const EpsilonBracket exact = certified_epsilon(same, 1e-6, upper);
  EXPECT_GE(upper, exact.lower);
  EXPECT_LE(upper, 1.002 * exact.upper);
  EXPECT_LE(loss_epsilon_lower(pairs, 1e-6), exact.upper);
  EXPECT_GE(loss_epsilon_lower(pairs, 1e-6), 0.997 * exact.lower);
}

TEST(LossBounds, PowerOfTestsIsThatOfNeymanAndPearson) {
  const Pairs gaussians = {{LossPair::sampled_gaussian(1, 4), 9}};
  for (double fpr : {1e-6, 0.01, 0.2, 0.7}) {
    const double exact = static_cast<double>(normal_cdf(normal_quantile(fpr) + 0.75));
    EXPECT_GE(loss_power_upper(gaussians, fpr), exact);
    EXPECT_LE(loss_power_lower(gaussians, fpr), exact);
    EXPECT_NEAR(loss_power_upper(gaussians, fpr), exact, 2e-3 * exact);
    EXPECT_NEAR(loss_power_lower(gaussians, fpr), exact, 4e-3 * exact);
  }
  EXPECT_EQ(loss_power_upper(gaussians, 1), 1);
  const Pairs failing = {{LossPair::approximate_dp(0, 1e-3), 1}};
  EXPECT_NEAR(loss_power_upper(failing, 0), 1e-3, 1e-12);
}

TEST(LossBounds, TruePositiveRatesOfARunAreBetweenGuessingAndItsEpsilon) {
  const std::vector<Charge> run = {{PoissonSampledGaussianEvent{0.01, 1.1}, 1000}};
  double before = 0;
  for (double fpr : {1e-5, 1e-3, 0.1, 0.6}) {
    const double bound = true_positive_rate_bound(run, fpr);
    EXPECT_GT(bound, fpr);
    EXPECT_GT(bound, before);
    for (double epsilon : {0.1, 0.5, 2.0, 5.0})
      EXPECT_LE(bound, (delta_of(run, epsilon) + std::exp(epsilon) * fpr) * 1.002);
    before = bound;
  }
  EXPECT_EQ(true_positive_rate_bound({}, 0.2), 0.2);
  EXPECT_EQ(true_positive_rate_bound(std::vector<Charge>{{GaussianEvent{0}, 1}}, 0.2), 1);
}

TEST(LossBounds, NothingReleasedCostsNothing) {
  const Pairs none = {{LossPair::sampled_gaussian(0.1, 1), 0}};
  EXPECT_EQ(loss_epsilon_upper(none, 1e-5), 0);
  EXPECT_EQ(loss_log_delta_upper(none, 0.1), -kInfinity);
  EXPECT_EQ(loss_epsilon_upper(Pairs{{LossPair::finite({1}, {1}), 5}}, 1e-5), 0);
}

TEST(LossBounds, BoundedLossesBoundEpsilonAtDeltaZero) {
  EXPECT_NEAR(loss_epsilon_upper(Pairs{{LossPair::approximate_dp(0.5, 0), 4}}, 0), 2, 1e-9);
  EXPECT_EQ(loss_epsilon_upper(Pairs{{LossPair::sampled_gaussian(0.1, 1), 1}}, 0), kInfinity);
}

TEST(LossBounds, ManyDistinctEventsAreDrawnTogetherOnTheSafeSide) {
  std::vector<Charge> charges;
  Pairs same;  // the events in the middle of each hundred are nearly the mean of the hundred
  for (int i = 0; i < 4000; ++i) {
    const double part = i / 4000.0;
    const double q = 0.002 * (1 + part), s = 0.8 + 0.4 * part * part;
    charges.push_back({PoissonSampledGaussianEvent{q, s}, 7});
    if (i % 100 == 50) same.push_back({LossPair::sampled_gaussian(q, s), 700});
  }
  const double epsilon = epsilon_upper_bound(charges, 1e-6);
  EXPECT_GE(epsilon, loss_epsilon_lower(same, 1e-6) * (1 - 1e-4));
  EXPECT_LE(epsilon, loss_epsilon_upper(same, 1e-6) * 1.001);
}

TEST(LossBounds, GroupsAreAroundTheirReleasesOneByOne) {
  // Rates and noises that lie on no line, as mixtures of the nodes around them and each by itself.
  std::mt19937_64 random(7);
  std::vector<Charge> charges;
  for (int i = 0; i < 40; ++i) {
    const double q = 0.002 * (1 + static_cast<double>(random() % 1000) / 1000),
                 s = 0.8 + static_cast<double>(random() % 1000) / 2000;
    charges.push_back({PoissonSampledGaussianEvent{q, s}, 1000});
  }
  const EpsilonReport each = epsilon_of(charges, 1e-6);
  EXPECT_EQ(each.accountant, "pld");
  EXPECT_LE(each.epsilon, each.lower_bound * 1.002);
  for (double ratio : {0.005, 0.02}) {
    const double above =
        loss_epsilon_upper(*loss_pairs_on_lattice(simplify(charges), Side::kUpper, ratio), 1e-6);
    const double below =
        loss_epsilon_lower(*loss_pairs_on_lattice(simplify(charges), Side::kLower, ratio), 1e-6);
    EXPECT_GE(above, each.lower_bound);
    EXPECT_LE(above, each.epsilon * (1.001 + ratio * ratio));
    EXPECT_LE(below, each.epsilon);
    EXPECT_GE(below, each.lower_bound * (1 - 4 * ratio));
  }
}

TEST(LossBounds, MixturesOfLatticePointsDominate) {
  // delta of one release against that of the public draw between the four points around it, in both
  // directions.
  for (double q : {0.013, 0.4, 0.97}) {
    for (double s : {0.05, 0.31, 1.7, 60.0}) {
      const Schedule schedule = simplify(std::vector<Charge>{{PoissonSampledGaussianEvent{q, s}, 1}});
      const auto group = loss_pairs_on_lattice(schedule, Side::kUpper, 0.3)->groups.at(0);
      for (double epsilon : {-3.0, -0.2, -1e-3, 0.0, 1e-4, 0.01, 0.3, 2.0, 20.0, 200.0}) {
        for (bool swapped : {false, true}) {
          const auto delta = [&](const LossPair& pair) {
            const LossPair way = swapped ? pair.swapped() : pair;
            const LossCell above = way.cells(std::array{epsilon, kInfinity}, std::array{epsilon}).front();
            return above.rise;
          };
          double mixture = 0;
          for (const auto& [node, weight] : group.nodes) mixture += weight * delta(node);
          const double exact = delta(LossPair::sampled_gaussian(q, s));
          EXPECT_GE(mixture, exact * (1 - 1e-9) - 1e-15) << q << " " << s << " " << epsilon << " " << swapped;
          if (s < 0.1) continue;  // the total variation is 1 for all points
          EXPECT_LE(mixture, exact * 1.3 + 0.01) << q << " " << s << " " << epsilon << " " << swapped;
        }
      }
    }
  }
}

}  // namespace
}  // namespace dpfa::accounting
