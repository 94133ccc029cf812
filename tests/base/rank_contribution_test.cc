// Shares of noise: what each rank adds, and what is left when some of the ranks subtract theirs.
#include "src/base/random/rank_contribution.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/dither.h"
#include "tests/support/statistics.h"

namespace dpfa {
namespace {

using testing::kZ7;

constexpr size_t kElements = 1 << 17;

// Ranks as a job has them: a root each.
class Ranks {
 public:
  Ranks(int ranks, int colluding, double noise, int shift = 0)
      : noise_(noise), share_{shift, 1 << 20, noise / std::sqrt(ranks - colluding)} {
    for (int r = 0; r < ranks; ++r) {
      const RootKey root = RootKey::from_insecure_seed(static_cast<uint64_t>(100 + r));
      parts_.emplace_back(share_, root.stream(Purpose::kNoise), root.stream(Purpose::kDither));
    }
  }
  std::vector<double> lanes(size_t rank, uint64_t draw, const std::vector<int64_t>& sum) const {
    std::vector<int32_t> out(sum.size());
    parts_[rank].make(draw, 0, sum, out);
    return {out.begin(), out.end()};
  }
  std::vector<double> noise_of(size_t rank, uint64_t draw = 0) const {
    return lanes(rank, draw, std::vector<int64_t>(kElements));
  }
  size_t size() const { return parts_.size(); }
  double noise() const { return noise_; }
  const RankShare& share() const { return share_; }

 private:
  double noise_;
  RankShare share_;
  std::vector<RankContribution> parts_;
};

// (sum of squares / variance - n) / sqrt(2 n).
double z_of_variance(const std::vector<double>& values, double variance) {
  double squares = 0;
  for (double v : values) squares += v * v;
  const double n = static_cast<double>(values.size());
  return (squares / variance - n) / std::sqrt(2 * n);
}

// False alarm 1e-7 per comparison, 26 comparisons. A standard deviation that is off by 1.1 % is found.
TEST(RankContribution, SharesAddUpAndWhatIsLeftAgainstColludersIsTheNoiseThatIsClaimed) {
  for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{2, 1}, {3, 1}, {5, 3}, {4, 0}}) {
    const Ranks job(ranks, colluding, 5000);
    std::vector<double> sum(kElements), left(kElements);
    for (size_t r = 0; r < job.size(); ++r) {
      const std::vector<double> own = job.noise_of(r);
      EXPECT_LE(std::abs(z_of_variance(own, 5000.0 * 5000 / (ranks - colluding))), kZ7) << "rank " << r;
      for (size_t i = 0; i < kElements; ++i) {
        sum[i] += own[i];
        if (r >= static_cast<size_t>(colluding)) left[i] += own[i];
      }
    }
    EXPECT_LE(std::abs(z_of_variance(sum, 5000.0 * 5000 * ranks / (ranks - colluding))), kZ7);
    EXPECT_LE(std::abs(z_of_variance(left, 5000.0 * 5000)), kZ7) << ranks << " " << colluding;
  }
}

// Correlations of all pairs of ranks, and of two draws of one rank: false alarm 1e-7 each.
TEST(RankContribution, SharesOfTwoRanksAndOfTwoDrawsAreUncorrelated) {
  const Ranks job(4, 1, 5000);
  const auto z = [&](const std::vector<double>& a, const std::vector<double>& b) {
    double product = 0;
    for (size_t i = 0; i < kElements; ++i) product += a[i] * b[i];
    const double variance = job.share().share_sigma * job.share().share_sigma;
    return product / variance / std::sqrt(static_cast<double>(kElements));
  };
  for (size_t a = 0; a < job.size(); ++a) {
    EXPECT_LE(std::abs(z(job.noise_of(a, 0), job.noise_of(a, 1))), kZ7) << a;
    for (size_t b = 0; b < a; ++b) EXPECT_LE(std::abs(z(job.noise_of(a), job.noise_of(b))), kZ7) << a << b;
  }
}

// The model by which the plan leaves room: a sum of shares leaves kappa share_sigma sqrt(N) in a coordinate
// with probability at most 2 exp(-kappa^2 / 2). 5 standard deviations of the binomial: false alarm 6e-7 each.
TEST(RankContribution, SumsLeaveTheirRoomNoMoreOftenThanTheModelSays) {
  for (const auto& [ranks, noise] : std::vector<std::pair<int, double>>{{1, 4}, {3, 8}, {8, 5000}}) {
    const Ranks job(ranks, 0, noise);
    std::vector<double> sum(kElements);
    for (size_t r = 0; r < job.size(); ++r) {
      const std::vector<double> own = job.noise_of(r, 3);
      for (size_t i = 0; i < kElements; ++i) sum[i] += own[i];
    }
    for (const double kappa : {1.5, 2.0, 2.5, 3.0}) {
      double outside = 0;
      for (const double value : sum) outside += std::abs(value) > kappa * noise;
      const double bound = 2 * std::exp(-kappa * kappa / 2), n = kElements;
      EXPECT_LE(outside, n * bound + 5 * std::sqrt(n * bound)) << ranks << " " << kappa;
      EXPECT_GT(outside, n * bound / 20) << "the bound would hold for anything: " << ranks << " " << kappa;
    }
  }
}

TEST(RankContribution, IsTheDitheredCutSumPlusNoise) {
  const Ranks job(2, 1, 1000, /*shift=*/6);
  std::vector<int64_t> sum(3000);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = static_cast<int64_t>(i) * 65537 - 98000000;
  const std::vector<double> with = job.lanes(1, 9, sum), noise = job.lanes(1, 9, std::vector<int64_t>(3000));
  std::vector<int64_t> rounded = sum;
  dither(RootKey::from_insecure_seed(101).stream(Purpose::kDither), 9, 0, 6, rounded);
  bool cut = false;
  for (size_t i = 0; i < sum.size(); ++i) {
    const int64_t expected = std::clamp<int64_t>(rounded[i], -(1 << 20), 1 << 20);
    cut = cut || expected != rounded[i];
    ASSERT_EQ(with[i] - noise[i], static_cast<double>(expected)) << i;
  }
  EXPECT_TRUE(cut) << "the case must reach the clamp";
}

TEST(RankContribution, DoesNotDependOnTheChunksItIsMadeIn) {
  const Ranks job(2, 0, 1e6, /*shift=*/2);
  const RankContribution part({2, 1 << 20, 1e6}, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}),
                              StreamKey({2, 3, 4, 5, 6, 7, 8, 9}));
  std::vector<int64_t> sum(5000, 12345);
  std::vector<int32_t> whole(sum.size()), pieces(sum.size());
  part.make(4, 0, sum, whole);
  for (size_t begin = 0; begin < sum.size(); begin += 777) {
    const size_t count = std::min<size_t>(777, sum.size() - begin);
    part.make(4, begin, std::span(sum).subspan(begin, count), std::span(pieces).subspan(begin, count));
  }
  EXPECT_EQ(whole, pieces);
}

// Residues modulo 16 of lanes that hide a sum of 0 and a sum of one unit; the same test finds 0 and 1 at once
// in floats to which float noise was added. 15 degrees of freedom: P(> 65) = 4e-8.
double low_bits_statistic(const std::vector<double>& a, const std::vector<double>& b) {
  std::array<double, 16> first{}, second{};
  for (double v : a) ++first[static_cast<size_t>(static_cast<int64_t>(v) & 15)];
  for (double v : b) ++second[static_cast<size_t>(static_cast<int64_t>(v) & 15)];
  double statistic = 0;
  for (size_t r = 0; r < 16; ++r)
    statistic += (first[r] - second[r]) * (first[r] - second[r]) / std::max(1.0, first[r] + second[r]);
  return statistic;
}

TEST(RankContribution, LowBitsDoNotTellASumOfZeroFromASumOfOne) {
  const Ranks job(2, 1, 4096);
  const std::vector<double> zero = job.noise_of(0, 5),
                            one = job.lanes(0, 6, std::vector<int64_t>(kElements, 1));
  EXPECT_LE(low_bits_statistic(zero, one), 65);
  // The negative control: noise that is a multiple of 2, as floats have where their exponent is large.
  std::vector<double> even_zero = zero, even_one = one;
  for (double& v : even_zero) v = 2 * v;
  for (double& v : even_one) v = 2 * v + 1;
  EXPECT_GT(low_bits_statistic(even_zero, even_one), 1000);
}

TEST(RankContribution, NarrowSharesAndAClampOfNothingAreRefused) {
  const StreamKey key({1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_THROW(RankContribution({0, 0, 10}, key, key), InternalError);
  EXPECT_THROW(RankContribution({0, 10, 0.5}, key, key), InternalError);
  const RankContribution part({0, 10, 10}, key, key);
  EXPECT_GE(part.share_sigma(), 10);
  std::vector<int64_t> sum(3);
  std::vector<int32_t> lanes(2);
  EXPECT_THROW(part.make(0, 0, sum, lanes), InternalError);
}

}  // namespace
}  // namespace dpfa
