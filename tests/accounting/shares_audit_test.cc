// A distinguishing audit of noise shares: one record whose contribution an adversary knows is in or out, many
// times; what the best threshold tells must stay within the (epsilon, delta) that is claimed, and mistakes
// that void the claim must show.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/noise_shares.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/rank_contribution.h"

namespace dpfa::accounting {
namespace {

constexpr int kTrials = 100'000;
constexpr int kDimension = 3, kShift = 5;
constexpr double kUnit = 1 << kShift;
// The canary on the fine grid: 47.5, -30.25 and 11 lane units.
constexpr std::array<int64_t, kDimension> kCanary = {1520, -968, 352};
constexpr double kRate = 0.3, kMultiplier = 1.2;
constexpr int kRanks = 3, kColluding = 1;

double canary_norm() {
  double square = 0;
  for (int64_t g : kCanary) square += static_cast<double>(g * g);
  return std::sqrt(square) / kUnit;
}

double share_sigma() { return kMultiplier * canary_norm() / std::sqrt(kRanks - kColluding); }

NoiseSharesEvent claimed() {
  return {kRate, share_sigma(), kRanks, kColluding, canary_norm(), kDimension, kDimension};
}

struct Mistake {
  bool one_rank_without_noise = false;
  bool insiders_know_the_draw = false;  // a sampling key that ranks share
};

// What rank 0, who subtracts its own share, sees along the canary in the trials in which it looks.
std::vector<double> views(bool canary_is_there, const Mistake& mistake) {
  std::vector<RankContribution> ranks;
  for (uint64_t r = 0; r < kRanks; ++r) {
    const RootKey root = RootKey::from_insecure_seed(10 * r + (canary_is_there ? 1 : 2));
    ranks.push_back(
        {{kShift, 1 << 20, share_sigma()}, root.stream(Purpose::kNoise), root.stream(Purpose::kDither)});
  }
  std::vector<double> result;
  std::vector<uint32_t> draws(kTrials);
  fill_words(StreamKey({5, 6, 7, 8, 1, 2, 3, 4}), canary_is_there ? 1 : 2, 0, draws);
  for (int trial = 0; trial < kTrials; ++trial) {
    const bool drawn = draws[static_cast<size_t>(trial)] < kRate * 0x1p32;
    if (mistake.insiders_know_the_draw && !drawn) continue;
    double view = 0;
    for (size_t r = 1; r < kRanks; ++r) {
      std::vector<int64_t> sum = {77, -1003, 5};  // of other records
      std::vector<int32_t> lanes(kDimension);
      for (size_t j = 0; j < kDimension && r == 1 && canary_is_there && drawn; ++j) sum[j] += kCanary[j];
      ranks[r].make(static_cast<uint64_t>(trial), 0, sum, lanes);
      for (size_t j = 0; j < kDimension; ++j) {
        const bool bare = mistake.one_rank_without_noise && r == 2;
        const double lane = bare ? static_cast<double>(sum[j]) / kUnit : lanes[j];
        view += (lane - static_cast<double>(sum[j] - (r == 1 && canary_is_there && drawn ? kCanary[j] : 0)) /
                            kUnit) *
                static_cast<double>(kCanary[j]) / kUnit;
      }
    }
    result.push_back(view / canary_norm());
  }
  return result;
}

// A probability from `count` of `trials`, lowered or raised by 5.2 standard deviations (1e-7) of the
// binomial.
double bound(double count, double trials, double side) {
  const double p = count / trials;
  return std::clamp(p + side * (5.2 * std::sqrt(p * (1 - p) / trials) + 14 / trials), 0.0, 1.0);
}

// Largest excess of what some threshold shows over the claimed delta, over several epsilons and both
// directions; positive: the claim is refuted at a confidence of 1 - 1e-5.
double largest_excess(const Mistake& mistake) {
  const std::vector<double> in = views(true, mistake), out = views(false, mistake);
  const auto share_above = [](const std::vector<double>& values, double threshold, double side) {
    const auto above = std::count_if(values.begin(), values.end(), [=](double v) { return v > threshold; });
    return bound(static_cast<double>(above), static_cast<double>(values.size()), side);
  };
  double excess = -1;
  for (double epsilon : {0.0, 0.3, 0.7, 1.2}) {
    const double delta = delta_of(claimed(), 1, epsilon);
    for (double threshold = -3 * canary_norm(); threshold <= 4 * canary_norm();
         threshold += canary_norm() / 4) {
      excess = std::max(excess, share_above(in, threshold, -1) -
                                    std::exp(epsilon) * share_above(out, threshold, 1) - delta);
      excess = std::max(excess, 1 - share_above(out, threshold, 1) -
                                    std::exp(epsilon) * (1 - share_above(in, threshold, -1)) - delta);
    }
  }
  return excess;
}

TEST(SharesAudit, NoThresholdRefutesTheClaimToAColludingRank) { EXPECT_LE(largest_excess({}), 0); }

TEST(SharesAudit, ARankWithoutNoiseIsCaught) {
  EXPECT_GT(largest_excess({.one_rank_without_noise = true}), 0);
}

TEST(SharesAudit, ASamplingKeyThatInsidersKnowIsCaught) {
  EXPECT_GT(largest_excess({.insiders_know_the_draw = true}), 0);
}

}  // namespace
}  // namespace dpfa::accounting
