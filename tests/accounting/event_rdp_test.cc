// Divergences of events against sums and integrals over the laws themselves, in 50-digit arithmetic where
// they cancel, and bounds against the exact divergence of neighbours that come close to them.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include <boost/multiprecision/cpp_bin_float.hpp>

#include "accounting/mechanism_rdp.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {
namespace {

using Wide = boost::multiprecision::cpp_bin_float_50;

double relative_error(double value, const Wide& expected) {
  return static_cast<double>(abs((Wide(value) - expected) / expected));
}

struct Component {
  double weight, mean;
};
// D_order(P || Q) of two mixtures of normal laws, by the trapezoid rule.
double mixture_rdp(const std::vector<Component>& p, const std::vector<Component>& q, double sigma,
                   double order) {
  auto density = [sigma](const std::vector<Component>& law, double x) {
    double sum = 0;
    for (const auto& [weight, mean] : law) {
      const double z = (x - mean) / sigma;
      sum += weight * std::exp(-z * z / 2);
    }
    return sum / sigma / std::sqrt(2 * M_PI);
  };
  const double step = sigma / 40;
  double sum = 0;
  for (double x = -20 * sigma - 3 * order; x <= 20 * sigma + 3 * order; x += step) {
    const double a = density(p, x), b = density(q, x);
    if (a > 0 && b > 0) sum += std::exp(order * std::log(a) + (1 - order) * std::log(b));
  }
  return std::log(sum * step) / (order - 1);
}

TEST(EventRdp, TruncatedSamplingIsBoundedForEveryNumberOfRecordsUpToTheDeclaredOne) {
  // Rate 0.4, at most one record kept; the others contribute -1, the record +1, so that a record that takes
  // the place of another one moves the sum by 2.
  const double q = 0.4, sigma = 1.5;
  for (int others : {0, 1, 2, 3}) {
    double none = 1, full;
    for (int i = 0; i < others; ++i) none *= 1 - q;
    full = 1 - none;
    double kept = 0;  // probability that the record is kept: one of K + 1 where K others were drawn
    double binomial = none;
    for (int k = 0; k <= others; ++k) {
      kept += q * binomial / (k + 1);
      binomial *= (others - k) * q / ((k + 1) * (1 - q));
    }
    const double other_kept = full - (kept - q * none);
    const std::vector<Component> with = {{1 - kept - other_kept, 0}, {kept, 1}, {other_kept, -1}};
    const std::vector<Component> without = {{none, 0}, {full, -1}};
    const TruncatedPoissonGaussianEvent event{q, 1, 4, sigma, 1, Relation::kAddOrRemoveOne};
    for (double order : {1.5, 2.0, 5.0}) {
      EXPECT_LE(mixture_rdp(with, without, sigma, order), rdp_of(event, order)) << others << " " << order;
      EXPECT_LE(mixture_rdp(without, with, sigma, order), rdp_of(event, order)) << others << " " << order;
    }
  }
}

TEST(EventRdp, TruncationProbabilityIsTheBinomialTail) {
  for (const auto& [n, b, q] :
       std::vector<std::tuple<int, int, double>>{{10, 3, 0.2}, {100, 30, 0.1}, {50, 50, 0.5}}) {
    Wide sum = 0, mass = pow(1 - Wide(q), n - 1);
    for (int k = 0; k < n; ++k) {
      if (k >= b) sum += mass;
      mass = mass * (n - 1 - k) / (k + 1) * Wide(q) / (1 - Wide(q));
    }
    const double value = truncation_probability({q, b, n, 1, 1, Relation::kAddOrRemoveOne});
    EXPECT_GE(value, static_cast<double>(sum));
    EXPECT_LE(value, static_cast<double>(sum) * (1 + 1e-8));
  }
  EXPECT_EQ(truncation_probability({0.5, 10, 10, 1, 1, Relation::kAddOrRemoveOne}), 0);
}

TEST(EventRdp, TruncationAddsToTheCostAndNothingWhereItNeverHappens) {
  const double plain = rdp_of(PoissonSampledGaussianEvent{0.1, 1}, 4);
  double before = INFINITY;
  for (int64_t most : {5, 10, 20, 40, 99}) {
    const double value = rdp_of(TruncatedPoissonGaussianEvent{0.1, most, 100, 1, 1}, 4);
    EXPECT_LT(value, before);
    EXPECT_GE(value, plain);
    before = value;
  }
  EXPECT_EQ(rdp_of(TruncatedPoissonGaussianEvent{0.1, 100, 100, 1, 1}, 4), plain);
}

TEST(EventRdp, ReplacingASampledRecordIsBoundedByTheTriangleAndByConvexity) {
  for (double q : {0.01, 0.2, 0.9}) {
    for (double sigma : {0.8, 2.0, 6.0}) {
      const PoissonSampledGaussianEvent event{q, sigma, 1, Relation::kReplaceOne};
      for (double order : {1.2, 2.0, 6.0}) {
        const double exact = mixture_rdp({{1 - q, 0}, {q, 1}}, {{1 - q, 0}, {q, -1}}, sigma, order);
        EXPECT_LE(exact, rdp_of(event, order) * (1 + 1e-9)) << q << " " << sigma << " " << order;
        EXPECT_GE(rdp_of(event, order), sampled_gaussian_rdp(q, sigma, order));
      }
    }
  }
  // At a small rate and strong noise the bound is not far above: the sum moves by 2 instead of 1.
  EXPECT_LT(rdp_of(PoissonSampledGaussianEvent{0.01, 4, 1, Relation::kReplaceOne}, 2),
            6 * rdp_of(PoissonSampledGaussianEvent{0.01, 4}, 2));
}

TEST(EventRdp, DiscreteLaplaceEqualsTheSumOverItsProbabilities) {
  for (double a : {0.1, 0.5, 2.0}) {
    for (int shift : {1, 2, 7}) {
      for (double order : {1.0, 1.001, 2.5, 20.0}) {
        const Wide height = tanh(Wide(a) / 2);
        Wide sum = 0;
        const int end = static_cast<int>(130 / a) + 50;
        for (int x = -end; x <= end; ++x) {
          const Wide p = height * exp(-Wide(a) * std::abs(x - shift)),
                     q = height * exp(-Wide(a) * std::abs(x));
          const Wide log_ratio = Wide(a) * (std::abs(x) - std::abs(x - shift));
          sum += order == 1 ? p * log_ratio
                            : q * (exp(Wide(order) * log_ratio) - 1 - Wide(order) * (exp(log_ratio) - 1));
        }
        const Wide expected = order == 1 ? sum : log(1 + sum) / (Wide(order) - 1);
        EXPECT_LT(relative_error(discrete_laplace_rdp(a, shift, order), expected), 1e-11)
            << a << " " << shift << " " << order;
      }
    }
  }
}

TEST(EventRdp, PureDpEqualsBinaryRandomizedResponse) {
  for (double epsilon : {1e-5, 0.1, 3.0, 40.0}) {
    for (double order : {1.01, 2.0, 30.0}) {
      const Wide p = 1 / (1 + exp(-Wide(epsilon))), q = 1 - p, a = order;
      const Wide expected = log(pow(p, a) * pow(q, 1 - a) + pow(q, a) * pow(p, 1 - a)) / (a - 1);
      EXPECT_LT(relative_error(pure_dp_rdp(epsilon, order), expected), 1e-11) << epsilon << " " << order;
    }
  }
}

// Sampled discrete Gaussian with whole shift, order by order, from its probabilities; each dithered shift
// (below with probability 1 - f, above with f) is public.
double sampled_discrete_rdp(double q, double sigma, double shift, double order, bool remove) {
  auto log_weight = [sigma](double x) { return -x * x / (2 * sigma * sigma); };
  double total = 0;
  for (int x = -200; x <= 200; ++x) total += std::exp(log_weight(x));
  double moment = 0;
  const double low = std::floor(shift), part = shift - low;
  for (const auto& [moved, probability] :
       std::vector<std::pair<double, double>>{{low, 1 - part}, {low + 1, part}}) {
    double sum = 0;
    for (int x = -150; x <= 150; ++x) {
      const double log_without = log_weight(x) - std::log(total);
      const double log_ratio = std::log(1 - q + q * std::exp(log_weight(x - moved) - log_weight(x)));
      sum += std::exp(log_without + (remove ? order : 1 - order) * log_ratio);
    }
    moment += probability * sum;
  }
  return std::log(moment) / (order - 1);
}

TEST(EventRdp, DitheredDiscreteNoiseIsBoundedAtAndBetweenWholeOrders) {
  for (double q : {0.05, 0.3, 1.0}) {
    for (double sigma : {3.0, 5.0}) {
      for (double shift : {0.2, 0.6, 1.0, 1.5}) {
        const PoissonSampledDiscreteGaussianEvent event{q, sigma, shift, 1, 1, Relation::kAddOrRemoveOne};
        for (double order : {1.3, 2.0, 2.5, 3.0, 4.0}) {
          for (bool remove : {true, false}) {
            EXPECT_LE(sampled_discrete_rdp(q, sigma, shift, order, remove), rdp_of(event, order) * (1 + 1e-9))
                << q << " " << sigma << " " << shift << " " << order;
          }
        }
      }
    }
  }
}

TEST(EventRdp, WholeContributionsWithDiscreteNoiseCostWhatWholeOrdersSay) {
  for (double q : {0.05, 0.3}) {
    for (int shift : {1, 2}) {
      for (double sigma : {2.0, 5.0}) {
        const PoissonSampledDiscreteGaussianEvent event{q, sigma, static_cast<double>(shift), 0, 1};
        for (double order : {2.0, 3.0, 6.0}) {
          EXPECT_LE(rdp_of(event, order), sampled_gaussian_rdp(q, sigma / shift, order) * (1 + 1e-12));
          EXPECT_NEAR(rdp_of(event, order), sampled_discrete_rdp(q, sigma, shift, order, true), 1e-12);
        }
        // The continuous Gaussian that the discrete one is a rounding of bounds the orders between.
        EXPECT_GE(rdp_of(event, 2.5) * (1 + 1e-9), sampled_discrete_rdp(q, sigma, shift, 2.5, true));
        EXPECT_GE(rdp_of(event, 1.3) * (1 + 1e-9), sampled_discrete_rdp(q, sigma, shift, 1.3, true));
      }
    }
  }
}

TEST(EventRdp, DitheringCostsAQuarterGridUnitPerCoordinate) {
  // 3.1c of the derivation: the sensitivity squared grows by d / 4 grid units where the grid is fine.
  const double distance = 65536, noise = 1.0;
  const int64_t dimension = 124'000'000;
  const PoissonSampledDiscreteGaussianEvent event{0.01, noise * distance, distance, dimension, dimension};
  const double inflation = std::sqrt(1 + static_cast<double>(dimension) / 4 / distance / distance);
  EXPECT_NEAR(rdp_of(event, 8), sampled_gaussian_rdp(0.01, noise / inflation, 8), 1e-3 * rdp_of(event, 8));
  EXPECT_GT(rdp_of(event, 8), sampled_gaussian_rdp(0.01, noise, 8));
}

// Theorem 27 as printed: alternating sums and all.
Wide without_replacement_oracle(double rate, double sigma, int order) {
  const Wide q = rate, unit = 1 / (2 * Wide(sigma) * sigma);
  auto even = [&unit](int power) {
    Wide sum = 0, binomial = 1;
    for (int i = 0; i <= power; ++i) {
      sum += (i % 2 == 0 ? binomial : -binomial) * exp(Wide(i) * (i - 1) * unit);
      binomial = binomial * (power - i) / (i + 1);
    }
    return sum;
  };
  Wide sum = 1, binomial = order;
  for (int j = 2; j <= order; ++j) {
    binomial = binomial * (order - j + 1) / j;
    Wide first = 4 * (exp(2 * unit) - 1);
    if (j > 2) first = 4 * sqrt(even(2 * (j / 2)) * even(2 * ((j + 1) / 2)));
    const Wide second = 2 * exp(Wide(j - 1) * j * unit);
    sum += pow(q, j) * binomial * (first < second ? first : second);
  }
  return log(sum) / (order - 1);
}

TEST(EventRdp, SamplingWithoutReplacementEqualsItsTheoremInFiftyDigits) {
  for (double q : {0.001, 0.05, 0.5}) {
    for (double sigma : {0.4, 1.0, 4.0}) {
      WithoutReplacementRdp rdp(q, sigma);
      for (int order : {12, 2, 3, 7, 30}) {
        EXPECT_LT(relative_error(rdp(order), without_replacement_oracle(q, sigma, order)), 1e-12)
            << q << " " << sigma << " " << order;
      }
    }
  }
}

TEST(EventRdp, EveryRdpGrowsWithItsOrder) {
  for (const Event& event :
       std::vector<Event>{TruncatedPoissonGaussianEvent{0.1, 15, 100, 1, 1},
                          SampledWithoutReplacementGaussianEvent{0.1, 1, 1},
                          PoissonSampledGaussianEvent{0.1, 1, 1, Relation::kReplaceOne}, LaplaceEvent{1, 1},
                          DiscreteGaussianEvent{2, 1}, PoissonSampledDiscreteGaussianEvent{0.1, 6, 1, 0, 1},
                          PoissonSampledDiscreteGaussianEvent{0.1, 6, 1, 3, 3}, DiscreteLaplaceEvent{1, 2},
                          SkellamEvent{10, 1, 1}, RandomizedResponseEvent{0.3, 4},
                          RandomizedResponseEvent{0.3, 4, Relation::kZeroOut}, ExponentialMechanismEvent{1},
                          ZeroConcentratedEvent{0.1, 0.2}, ApproximateDpEvent{1, 1e-6}}) {
    double before = 0;
    for (double order :
         {1.0, 1.01, 1.5, 2.0, 2.01, 3.0, 3.7, 16.0, 16.5, 200.0, static_cast<double>(INFINITY)}) {
      const double value = rdp_of(event, order);
      EXPECT_GE(value * (1 + 1e-9), before) << to_json(event) << " " << order;
      before = value;
    }
  }
}

TEST(EventRdp, ManyDistinctStepsAreBoundedByADominatingScheduleOfFew) {
  std::vector<Charge> charges;
  for (int i = 0; i < 3000; ++i)
    charges.push_back({PoissonSampledGaussianEvent{0.01 + 1e-6 * i, 1.0 + 1e-4 * i}, 1 + i % 3});
  const Schedule schedule = simplify(charges);
  ScheduleRdp grouped(schedule);
  for (double order : {1.5, 4.0, 32.0}) {
    double exact = 0;
    for (const Charge& part : schedule.parts)
      exact += static_cast<double>(part.count) * rdp_of(part.event, order);
    EXPECT_GE(grouped(order), exact * (1 - 1e-12));
    EXPECT_LE(grouped(order), 1.1 * exact);
  }
}

}  // namespace
}  // namespace dpfa::accounting
