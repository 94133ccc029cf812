// Search over a drawn number of runs, against the divergence of the search itself where it can be summed.
#include "accounting/repeat_select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "accounting/accountant.h"

namespace dpfa::accounting {
namespace {

// P[K = k], k = 1.., from its definition.
std::vector<double> law_of(double shape, double gamma, int most) {
  std::vector<double> masses;
  double product = 1 / (shape == 0 ? std::log(1 / gamma) : std::pow(gamma, -shape) - 1);
  for (int k = 1; k <= most; ++k) {
    product *= 1 - gamma;
    if (shape != 0) product *= (k - 1 + shape) / k;
    masses.push_back(shape == 0 ? product / k : product);
  }
  return masses;
}

TEST(RepeatAndSelect, GammaGivesTheMeanOfTheLaw) {
  for (double shape : {-0.5, 0.0, 1.0, 3.0}) {
    for (double mean : {1.5, 10.0}) {
      const double gamma = negative_binomial_gamma({mean, shape});
      const std::vector<double> law = law_of(shape, gamma, 20000);
      double total = 0, first = 0;
      for (size_t i = 0; i < law.size(); ++i) total += law[i], first += law[i] * static_cast<double>(i + 1);
      EXPECT_NEAR(total, 1, 1e-9) << shape;
      EXPECT_NEAR(first, mean, 1e-8 * mean) << shape;
    }
  }
  EXPECT_NEAR(negative_binomial_gamma({10, 1}), 0.1, 1e-14);
}

TEST(RepeatAndSelect, BoundsTheDivergenceOfTheBestOfRandomizedResponses) {
  // One run answers 1 with probability p under one dataset and 1 - p under the other; 1 is best. The best of
  // K is 0 only if all are: P[0] = E (1 - p)^K.
  const double run_epsilon = 0.4, p = 1 / (1 + std::exp(-run_epsilon));
  const RdpCurve run = [run_epsilon](double order) {
    return rdp_of(ApproximateDpEvent{run_epsilon, 0}, order);
  };
  for (double shape : {0.0, 1.0, 2.0}) {
    const RunCount runs{5, shape};
    const std::vector<double> law = law_of(shape, negative_binomial_gamma(runs), 2000);
    auto none = [&law](double miss) {
      double sum = 0;
      for (size_t k = 0; k < law.size(); ++k) sum += law[k] * std::pow(miss, static_cast<double>(k + 1));
      return sum;
    };
    const double a = none(1 - p), b = none(p);
    const RdpCurve search = repeat_and_select(run, runs);
    for (double order : {1.5, 2.0, 8.0, 60.0}) {
      for (const auto& [x, y] : {std::pair{a, b}, std::pair{b, a}}) {
        const double exact = std::log(std::pow(x, order) * std::pow(y, 1 - order) +
                                      std::pow(1 - x, order) * std::pow(1 - y, 1 - order)) /
                             (order - 1);
        EXPECT_LE(exact, search(order)) << shape << " " << order;
      }
    }
  }
}

TEST(RepeatAndSelect, CostsMoreThanOneRunAndLessThanTwiceOfAPureRunByTheGeometricLaw) {
  const std::vector<Charge> pure = {{ApproximateDpEvent{1, 0}, 1}};
  // (Liu and Talwar 2019: at most 3 epsilon; theorem 2 with b = infinity: 1 + (1 + shape) epsilon at every
  // order.)
  const double epsilon = repeat_and_select_epsilon(pure, {10, 1}, 1e-6).value;
  EXPECT_LE(epsilon, 3 * (1 + 1e-6));
  EXPECT_GT(epsilon, 1);
}

TEST(RepeatAndSelect, GrowsWithTheNumberOfRunsAndIsBelowComposition) {
  const std::vector<Charge> run = {{PoissonSampledGaussianEvent{0.01, 1}, 2000}};
  const double one = epsilon_upper_bound(run, 1e-6);
  for (double shape : {0.0, 1.0, static_cast<double>(INFINITY)}) {
    double before = one;
    for (double mean : {2.0, 10.0, 50.0}) {
      const double epsilon = repeat_and_select_epsilon(run, {mean, shape}, 1e-6).value;
      EXPECT_GE(epsilon, before) << shape << " " << mean;
      before = epsilon;
    }
    const std::vector<Charge> fifty = {{PoissonSampledGaussianEvent{0.01, 1}, 100000}};
    EXPECT_LT(before, epsilon_upper_bound(fifty, 1e-6)) << shape;
  }
}

TEST(RepeatAndSelect, RefusesRunsWithADeltaAndLawsOutOfRange) {
  const std::vector<Charge> run = {{GaussianEvent{5}, 1}};
  EXPECT_THROW(repeat_and_select_epsilon(std::vector<Charge>{{ApproximateDpEvent{1, 1e-9}, 1}}, {5, 1}, 1e-5),
               UnsupportedEvent);
  EXPECT_THROW(repeat_and_select_epsilon(run, {5, -1}, 1e-5), ConfigError);
  EXPECT_THROW(repeat_and_select_epsilon(run, {5, NAN}, 1e-5), ConfigError);
  EXPECT_THROW(repeat_and_select_epsilon(run, {1, 1}, 1e-5), ConfigError);
  EXPECT_THROW(repeat_and_select_epsilon(run, {0.5, INFINITY}, 1e-5), ConfigError);
  EXPECT_THROW(repeat_and_select_epsilon(run, {5, 1}, 0), ConfigError);
}

}  // namespace
}  // namespace dpfa::accounting
