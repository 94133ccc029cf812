// Sums of noise shares: bounds against the laws themselves (convolved number by number, every dither
// enumerated) in 50-digit arithmetic where they cancel, and against the formulas of
// docs/dithered_rounding.md.
#include "accounting/noise_shares.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/mechanism_rdp.h"
#include "accounting/rdp.h"
#include "src/base/random/chacha20.h"

namespace dpfa::accounting {
namespace {

using Wide = boost::multiprecision::cpp_bin_float_50;

// The law of the sum of `shares` discrete Gaussians on [-reach, reach], summed number by number.
template <typename Real>
class SumLaw {
 public:
  SumLaw(double sigma, int shares, int reach) : reach_(reach) {
    const std::vector<Real> one = normalised(sigma);
    law_ = one;
    for (int k = 1; k < shares; ++k) {
      std::vector<Real> next(law_.size(), Real(0));
      for (int x = -reach; x <= reach; ++x)
        for (int y = std::max(-reach, x - reach); y <= std::min(reach, x + reach); ++y)
          next[at(x)] += law_[at(y)] * one[at(x - y)];
      law_ = next;
    }
  }
  Real probability(int64_t x) const {
    return std::abs(x) <= reach_ ? law_[at(static_cast<int>(x))] : Real(0);
  }
  int reach() const { return reach_; }

  std::vector<Real> normalised(double sigma) const {
    std::vector<Real> law;
    Real total = 0;
    for (int x = -reach_; x <= reach_; ++x) {
      law.push_back(exp(-Real(x) * Real(x) / (2 * Real(sigma) * Real(sigma))));
      total += law.back();
    }
    for (Real& p : law) p /= total;
    return law;
  }

 private:
  size_t at(int x) const { return static_cast<size_t>(x + reach_); }
  int reach_;
  std::vector<Real> law_;
};

TEST(NoiseShares, ASumOfSharesIsWithinItsLogRatioOfOneDiscreteGaussian) {
  for (double sigma : {0.8, 1.0, 1.2}) {
    for (int shares : {2, 3, 5, 8}) {
      const int reach = 36;
      const SumLaw<Wide> sum(sigma, shares, reach);
      const std::vector<Wide> one = sum.normalised(sigma * std::sqrt(shares));
      const double bound = share_log_ratio({0.1, sigma, shares, 0, 1, 0, 1});
      double largest = 0;
      for (int x = -12; x <= 12; ++x)
        largest = std::max(
            largest,
            static_cast<double>(abs(log(Wide(sum.probability(x) / one[static_cast<size_t>(x + reach)])))));
      EXPECT_LE(largest, bound) << sigma << " " << shares;
      if (shares == 2) {
        EXPECT_GE(largest, bound / 3) << sigma;  // two shares come close to it
      }
    }
  }
}

// log E_Q[(P / Q)^a] / (a - 1) for Q the sum of shares in each of the coordinates and P the same displaced by
// `shift` with probability q; the other way round for !remove. Shifts have at most three coordinates.
double exact_rdp(const SumLaw<double>& law, double q, const std::vector<int>& shift, int order, bool remove) {
  const int reach = law.reach() / 2;
  std::vector<double> ratios(1, 1), masses(1, 1);  // of P's displaced part to Q
  for (int moved : shift) {
    std::vector<double> next_ratios, next_masses;
    for (size_t i = 0; i < masses.size(); ++i)
      for (int x = -reach; x <= reach; ++x) {
        if (masses[i] * law.probability(x) < 1e-40) continue;
        next_masses.push_back(masses[i] * law.probability(x));
        next_ratios.push_back(ratios[i] * (law.probability(x - moved) / law.probability(x)));
      }
    ratios = next_ratios, masses = next_masses;
  }
  double sum = 0;
  for (size_t i = 0; i < masses.size(); ++i)
    sum += masses[i] * std::pow(1 - q + q * ratios[i], remove ? order : 1 - order);
  return std::log(sum) / (order - 1);
}

template <typename T>
double norm(const std::vector<T>& shift) {
  return std::sqrt(std::inner_product(shift.begin(), shift.end(), shift.begin(), 0.0));
}

TEST(NoiseShares, WholeContributionsCostExactlyWhatTheConvolvedLawSays) {
  for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{1, 0}, {2, 1}, {3, 1}, {8, 0}}) {
    const SumLaw<double> law(4, ranks - colluding, 260);
    for (double q : {0.05, 0.4, 1.0}) {
      for (const std::vector<int>& shift : {std::vector<int>{1}, {5}, {2, 3}}) {
        const int64_t d = static_cast<int64_t>(shift.size());
        const NoiseSharesEvent event{q, 4, ranks, colluding, norm(shift), 0, d};
        for (int order : {2, 3, 6}) {
          const double exact = exact_rdp(law, q, shift, order, true), bound = noise_shares_rdp(event, order);
          EXPECT_LE(exact, bound * (1 + 1e-9)) << ranks << " " << q << " " << order;
          EXPECT_GE(exact, bound * (1 - 1e-6)) << ranks << " " << q << " " << order;
          EXPECT_LE(exact_rdp(law, q, shift, order, false), bound * (1 + 1e-9));
        }
      }
    }
  }
}

// All dithers of a contribution: coordinate j is displaced by floor(g_j) + 1 with probability frac(g_j), else
// by floor(g_j). `use` gets each displacement with its probability.
template <typename Use>
void for_each_dither(const std::vector<double>& contribution, const Use& use) {
  const size_t d = contribution.size();
  for (unsigned up = 0; up < 1u << d; ++up) {
    double probability = 1;
    std::vector<int> shift;
    for (size_t j = 0; j < d; ++j) {
      const double part = contribution[j] - std::floor(contribution[j]);
      const bool above = (up >> j & 1) != 0;
      probability *= above ? part : 1 - part;
      shift.push_back(static_cast<int>(std::floor(contribution[j])) + (above ? 1 : 0));
    }
    if (probability > 0) use(shift, probability);
  }
}

const std::vector<std::vector<double>> kContributions = {
    {0.2}, {0.5}, {1.5}, {2.75}, {0.5, 0.5}, {1.3, -0.6}, {0.1, 0.1}, {0.5, -0.5, 0.5}, {1.2, 0.3, -2.7}};

TEST(NoiseShares, MomentOfEveryDitherIsBoundedByTheProof) {
  for (const std::vector<double>& g : kContributions) {
    const double d = static_cast<double>(g.size()), square = norm(g) * norm(g);
    for (double c : {1e-6, 1e-3, 0.1, 0.5, 1.0, 1.9}) {
      Wide moment = 0;
      for_each_dither(g, [&](const std::vector<int>& shift, double probability) {
        moment += Wide(probability) * exp(Wide(c) * norm(shift) * norm(shift));
      });
      EXPECT_LE(static_cast<double>(log(moment)), dithered_log_moment(square, d, c) * (1 + 1e-12)) << c;
    }
  }
  EXPECT_TRUE(std::isinf(dithered_log_moment(1, 1, 2)));
}

TEST(NoiseShares, DitheredSumsCostAtMostTheBoundForEveryDitherInBothDirections) {
  for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{2, 1}, {3, 0}}) {
    const SumLaw<double> law(4, ranks - colluding, 130);
    for (double q : {0.05, 0.3, 1.0}) {
      for (const std::vector<double>& g : kContributions) {
        if (g.size() == 3 && ranks == 3) continue;  // minutes
        const int64_t d = static_cast<int64_t>(g.size());
        const NoiseSharesEvent event{q, 4, ranks, colluding, norm(g), d, d};
        for (int order : {2, 4}) {
          for (bool remove : {true, false}) {
            double moment = 0;
            for_each_dither(g, [&](const std::vector<int>& shift, double probability) {
              moment += probability * std::exp((order - 1) * exact_rdp(law, q, shift, order, remove));
            });
            EXPECT_LE(std::log(moment) / (order - 1), noise_shares_rdp(event, order) * (1 + 1e-9))
                << ranks << " " << q << " " << order << " " << remove;
          }
        }
      }
    }
  }
}

// Section 3.1c: 1 / (a - 1) ln sum_k Bin(k; a, q) exp(B(k (k - 1) / (2 S^2))).
double formula(const NoiseSharesEvent& e, int order) {
  const Wide q = e.sample_rate, square = Wide(e.sensitivity) * e.sensitivity, d = e.rounded_dimension;
  const Wide variance = Wide(e.share_sigma) * e.share_sigma * (e.ranks - e.colluding_ranks);
  Wide sum = 0, binomial = 1;
  for (int k = 0; k <= order; ++k) {
    const Wide c = Wide(k) * (k - 1) / (2 * variance);
    const Wide dithered = c * square / (1 - c / 2) - d / 2 * log(1 - c / 2);
    const Wide moment = e.rounded_dimension == 0 ? Wide(c * square) : dithered;
    sum += binomial * pow(1 - q, order - k) * pow(q, k) * exp(moment);
    binomial = binomial * (order - k) / (k + 1);
  }
  return static_cast<double>(log(sum) / (order - 1));
}

TEST(NoiseShares, RdpIsTheFormulaInFiftyDigits) {
  for (const NoiseSharesEvent& e :
       {NoiseSharesEvent{0.01, 5000, 3, 1, 4096, 1'000'000, 1'000'000},
        NoiseSharesEvent{0.3, 0x1p19, 64, 8, 0x1p20, 7'000'000'000, 7'000'000'000},
        NoiseSharesEvent{0.999, 30, 2, 0, 10, 3, 5}, NoiseSharesEvent{1e-4, 0x1p16, 4, 3, 0x1p16, 0, 1000}}) {
    for (int order : {2, 3, 8, 40}) {
      const double expected = formula(e, order);
      EXPECT_NEAR(noise_shares_rdp(e, order) / expected, 1, 1e-9) << e.ranks << " " << order;
    }
  }
}

TEST(NoiseShares, WithoutSamplingAStepCostsTheMomentOfTheDither) {
  const NoiseSharesEvent e{1, 5000, 3, 1, 4096, 1'000'000, 1'000'000};
  for (int order : {2, 5, 17}) {
    const double c = order * (order - 1) / (2 * 2 * 5000.0 * 5000.0);
    EXPECT_NEAR(noise_shares_rdp(e, order) * (order - 1), dithered_log_moment(4096.0 * 4096.0, 1e6, c),
                1e-9 * noise_shares_rdp(e, order));
  }
}

TEST(NoiseShares, OnAFineGridAStepCostsWhatTheSampledGaussianDoes) {
  for (double fine : {0x1p20, 0x1p30, 0x1p38}) {
    const NoiseSharesEvent e{0.01, fine, 1, 0, fine, 1000, 1000};
    for (int order : {2, 8, 32})
      EXPECT_NEAR(noise_shares_rdp(e, order) / sampled_gaussian_rdp(0.01, 1, order), 1,
                  1e-9 + 1e5 / fine / fine);
  }
}

std::vector<double> whole_orders() {
  std::vector<double> orders(127);
  std::iota(orders.begin(), orders.end(), 2.0);
  return orders;
}

double whole_order_epsilon(const NoiseSharesEvent& e, int64_t steps, double delta) {
  return best_epsilon([&](double a) { return static_cast<double>(steps) * noise_shares_rdp(e, a); },
                      whole_orders(), delta)
      .value;
}

// The table of the derivation: q = 0.01, z = 1, T = 2000, delta = 1e-6, whole orders 2 .. 128.
TEST(NoiseShares, EpsilonAtWholeOrdersIsThatOfTheTable) {
  for (const auto& [d, distance, expected] :
       std::vector<std::tuple<int64_t, double, double>>{{124'000'000, 0x1p16, 3.274},
                                                        {1'000'000'000, 0x1p18, 3.263},
                                                        {7'000'000'000, 0x1p18, 3.334},
                                                        {70'000'000'000, 0x1p20, 3.302},
                                                        {175'000'000'000, 0x1p20, 3.384}})
    EXPECT_NEAR(whole_order_epsilon({0.01, distance, 1, 0, distance, d, d}, 2000, 1e-6), expected, 1e-3);
  // To one curious rank where the shares add up to z = 1 without an allowance for it.
  for (const auto& [ranks, expected] :
       std::vector<std::pair<int, double>>{{2, 8.25}, {8, 3.77}, {64, 3.30}}) {
    const double share = 0x1p22 / std::sqrt(ranks);
    EXPECT_NEAR(whole_order_epsilon({0.01, share, ranks, 1, 0x1p22, 0, 1000}, 2000, 1e-6), expected, 0.01);
  }
}

TEST(NoiseShares, LossesOfTheContinuousGaussianBeatWholeOrders) {
  const double distance = 0x1p22, q = 0.0152, z = 0.546;
  const NoiseSharesEvent e{q, z * distance, 1, 0, distance, 0, 1'000'000};
  const double epsilon = epsilon_of(e, 197, 1e-5).epsilon;
  const double continuous = epsilon_of(PoissonSampledGaussianEvent{q, z}, 197, 1e-5).epsilon;
  EXPECT_GE(epsilon, continuous);
  EXPECT_LE(epsilon, continuous * (1 + 1e-4));
  EXPECT_EQ(epsilon_of(e, 197, 1e-5).accountant, "pld");
  EXPECT_GE(whole_order_epsilon(e, 197, 1e-5), 1.15 * epsilon);
  // Dithered: no less, and not much more than the inflation of the variance.
  const NoiseSharesEvent dithered{q, z * distance, 1, 0, distance, 1'000'000, 1'000'000};
  EXPECT_GE(epsilon_of(dithered, 197, 1e-5).epsilon, epsilon);
  EXPECT_LE(epsilon_of(dithered, 197, 1e-5).epsilon, epsilon * (1 + 1e-4));
}

// delta of one step over one coordinate, from the laws: the worse direction, all dithers.
double exact_delta(const SumLaw<double>& law, double q, double g, double epsilon) {
  double worse = 0;
  for (bool remove : {true, false}) {
    double sum = 0;
    for_each_dither({g}, [&](const std::vector<int>& shift, double probability) {
      for (int x = -law.reach(); x <= law.reach(); ++x) {
        const double without = law.probability(x),
                     with = (1 - q) * without + q * law.probability(x - shift[0]);
        const double excess =
            remove ? with - std::exp(epsilon) * without : without - std::exp(epsilon) * with;
        sum += probability * std::max(0.0, excess);
      }
    });
    worse = std::max(worse, sum);
  }
  return worse;
}

TEST(NoiseShares, DeltaOfOneStepIsAtLeastThatOfTheLaws) {
  for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{1, 0}, {3, 1}, {6, 2}}) {
    const SumLaw<double> law(4, ranks - colluding, 150);
    for (double q : {0.1, 1.0}) {
      for (double g : {0.5, 3.0, 6.4}) {
        const bool whole = g == std::floor(g);
        const NoiseSharesEvent event{q, 4, ranks, colluding, g, whole ? 0 : 1, 1};
        for (double epsilon : {0.1, 0.5, 2.0}) {
          const double exact = exact_delta(law, q, g, epsilon), bound = delta_of(event, 1, epsilon);
          EXPECT_LE(exact, bound) << ranks << " " << q << " " << g << " " << epsilon;
        }
      }
    }
  }
}

// R^2 = inf (B(c) + 100 ln 2) / c on a fine lattice of c in 50 digits.
TEST(NoiseShares, RadiusIsTheBestChernoffBoundAndNeverAboveTheCertainOne) {
  for (const auto& [distance, d] : std::vector<std::pair<double, double>>{
           {0x1p20, 1e9}, {5500, 1e6}, {100, 1e4}, {0x1p22, 1.75e11}, {3000, 10}}) {
    const DitherRadius found = dither_radius(distance, static_cast<int64_t>(d));
    Wide least = Wide(distance) + sqrt(Wide(d));
    for (double c = 1e-9; c < 1.99; c *= 1.002) {
      const Wide moment = Wide(c) * distance * distance / (1 - Wide(c) / 2) - d / 2 * log(1 - Wide(c) / 2);
      const Wide radius = sqrt((moment + 100 * log(Wide(2))) / c);
      if (radius < least) least = radius;
    }
    EXPECT_NEAR(found.radius / static_cast<double>(least), 1, 1e-5) << distance << " " << d;
    EXPECT_LE(found.radius, (distance + std::sqrt(d)) * (1 + 1e-12));
    EXPECT_GE(found.radius, std::sqrt(distance * distance + d / 4));
    EXPECT_TRUE(found.failure == 0 || found.failure == std::ldexp(1.0, -100) ||
                std::abs(found.failure * std::ldexp(1.0, 100) - 1) < 1e-12);
  }
  EXPECT_EQ(dither_radius(17, 0).radius, 17);
  EXPECT_EQ(dither_radius(17, 0).failure, 0);
}

// 2000 dithers of one contribution of 10000 equal coordinates: none is outside the radius, which is what a
// failure of 2^-100 says, and the mean square is D'^2 + sum of frac (1 - frac).
TEST(NoiseShares, DithersStayWithinTheRadius) {
  const int d = 10000;
  const double g = 1.25, distance = g * std::sqrt(d);
  const double radius = dither_radius(distance, d).radius;
  std::vector<uint32_t> words(d);
  double mean = 0;
  for (uint64_t draw = 0; draw < 2000; ++draw) {
    fill_words(StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), draw, 0, words);
    double square = 0;
    for (uint32_t w : words) square += w >= 0xC0000000u ? 4 : 1;  // floor(1.25 + w) = 2 for w >= 0.75
    ASSERT_LE(std::sqrt(square), radius);
    mean += square / 2000;
  }
  EXPECT_NEAR(mean / (distance * distance + d * 0.25 * 0.75), 1, 1e-3);
  EXPECT_LT(radius, distance + std::sqrt(d) / 2);
}

TEST(NoiseShares, InsidersNeverHaveASmallerEpsilonAndItGrowsWithTheirNumber) {
  for (double delta : {1e-4, 1e-8}) {
    double before = epsilon_of(NoiseSharesEvent{0.05, 2000, 6, 0, 1000, 5000, 5000}, 100, delta).epsilon;
    for (int64_t colluding = 1; colluding < 6; ++colluding) {
      const NoiseSharesEvent event{0.05, 2000, 6, colluding, 1000, 5000, 5000};
      const double inside = epsilon_of(event, 100, delta).epsilon;
      const double outside = epsilon_of(seen_by_outsiders(event), 100, delta).epsilon;
      EXPECT_GT(inside, before);
      EXPECT_GT(inside, outside);
      EXPECT_GT(delta_of(event, 100, 1), delta_of(seen_by_outsiders(event), 100, 1));
      before = inside;
    }
  }
}

// N - t shares of s' / sqrt(N - t) are noise s', whatever N and t.
TEST(NoiseShares, WhatIsLeftAgainstTheColludersDoesNotDependOnHowManyRanksThereAre) {
  const double alone = epsilon_of(NoiseSharesEvent{0.02, 5e5, 1, 0, 4e5, 0, 100}, 50, 1e-6).epsilon;
  for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{2, 1}, {4, 0}, {9, 4}, {64, 63}}) {
    const NoiseSharesEvent e{0.02, 5e5 / std::sqrt(ranks - colluding), ranks, colluding, 4e5, 0, 100};
    EXPECT_NEAR(epsilon_of(e, 50, 1e-6).epsilon, alone, 1e-6 * alone) << ranks << " " << colluding;
  }
}

TEST(NoiseShares, ClaimsWithoutAProofAreRefusedWithAReason) {
  const auto refused = [](const NoiseSharesEvent& event, const std::string& words) {
    try {
      check_event(event);
      ADD_FAILURE() << "accepted: " << words;
    } catch (const UnsupportedEvent& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  refused({0.1, 100, 3, 3, 1, 0, 1}, "colluding_ranks");
  refused({0.1, 100, 3, 4, 1, 0, 1}, "colluding_ranks");
  refused({0.1, 3.99, 3, 1, 1, 0, 1}, "less than 4 grid units");
  refused({0.1, 100, 3, 1, 1, 0, 1, Relation::kReplaceOne}, "relation");
  EXPECT_THROW(check_event(NoiseSharesEvent{0.1, 100, 3, 1, 1, 2, 1}), ConfigError);
  EXPECT_THROW(check_event(NoiseSharesEvent{0.1, 100, 0, 0, 1, 0, 1}), ConfigError);
  EXPECT_NO_THROW(check_event(NoiseSharesEvent{0.1, 4, 3, 2, 1, 0, 1}));
}

TEST(NoiseShares, AnEpsilonThatTheSamplersErrorCannotSupportIsInfinite) {
  // So many samples that delta is far below what the tables of the sampler are good for.
  const NoiseSharesEvent event{0.01, 0x1p22, 4, 1, 0x1p22, 0, int64_t{1} << 40};
  EXPECT_TRUE(std::isfinite(epsilon_of(event, 1000, 1e-9).epsilon));
  EXPECT_TRUE(std::isinf(epsilon_of(event, 1000, 1e-40).epsilon));
  EXPECT_EQ(epsilon_of(event, 1000, 1e-40).lower_bound, 0) << "that no bound was found is no lower bound";
  EXPECT_TRUE(std::isinf(epsilon_of(event, 1000, 0).epsilon));
}

}  // namespace
}  // namespace dpfa::accounting
