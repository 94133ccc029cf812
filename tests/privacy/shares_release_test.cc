// Releases with noise = shares: what leaves each rank, in which order, and what a failed sum leaves behind.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <utility>

#include "src/base/error.h"
#include "src/base/random/dither.h"
#include "src/privacy/privatizer.h"
#include "tests/support/clipped_sum_access.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/statistics.h"

namespace dpfa::privacy {
namespace {

using accounting::Ledger;
using test::ClippedSumAccess;

constexpr int64_t kParameters = 100000;
constexpr int kRanks = 3;

// In plain text: what a rank sends can be read here (masked_release_mpi_test.cc has the masks).
plan::PrivacyPlan shares_plan(const std::string& numerics) {
  plan::PrivacyConfig config;
  config.numerics = numerics;
  config.noise_multiplier = 1;
  config.expected_batch_size = 8;
  config.sample_rate = 0.1;
  config.target_delta = 1e-5;
  config.steps = 10;
  return plan::PrivacyPlan::derive(config, {.noise = "shares", .ranks = kRanks}, kParameters);
}

// One rank of three: keeps what it would send, and receives `others` in addition.
class OneOfThree : public test::RecordingCommunicator {
 public:
  explicit OneOfThree(int rank) : rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return kRanks; }
  std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
    std::vector<std::byte> all;
    for (int r = 0; r < kRanks; ++r) all.insert(all.end(), bytes.begin(), bytes.end());
    test::RecordingCommunicator::all_gather(bytes);
    return all;
  }
  void all_reduce_sum(std::span<uint32_t> values) override {
    test::RecordingCommunicator::all_reduce_sum(values);
    sent.assign(values.begin(), values.end());
    if (std::exchange(fails_once, false)) throw CommError("the network is gone");
    for (size_t i = 0; i < others.size(); ++i) values[i] += static_cast<uint32_t>(others[i]);
  }
  std::vector<int32_t> sent, others;
  bool fails_once = false;

 private:
  int rank_;
};

StreamKey key_of(int rank, Purpose purpose) {
  return RootKey::from_insecure_seed(static_cast<uint64_t>(50 + rank)).stream(purpose);
}

struct Rank {
  plan::PrivacyPlan plan;
  OneOfThree communicator;
  Ledger ledger;
  Privatizer privatizer;

  explicit Rank(int rank, const std::string& numerics = "exact")
      : plan(shares_plan(numerics)),
        communicator(rank),
        ledger(Ledger::in_memory({{"plan", plan.to_json()}, {"plan_digest", plan.digest()}})),
        privatizer(plan, communicator, ledger, key_of(rank, Purpose::kNoise),
                   key_of(rank, Purpose::kDither)) {}

  NoisyGradient release(std::span<const int32_t> sum) {
    const int64_t draw = privatizer.next_draw();
    return privatizer.release(ClippedSumAccess::make(sum), /*step=*/draw, draw);
  }
};

// False alarm 1e-7 per rank.
TEST(SharesRelease, EveryRankSendsItsSumUnderItsOwnShareOfTheNoise) {
  for (int r = 0; r < kRanks; ++r) {
    Rank rank(r);
    const std::vector<int32_t> sum(kParameters, 4321);
    rank.release(sum);
    const double sigma = rank.plan.noise_shares()->share.share_sigma;
    double squares = 0;
    for (int32_t lane : rank.communicator.sent) squares += std::pow((lane - 4321) / sigma, 2);
    EXPECT_LE(std::abs(squares - kParameters) / std::sqrt(2.0 * kParameters), testing::kZ7) << "rank " << r;
    EXPECT_NEAR(sigma * std::sqrt(kRanks) * rank.plan.lane_grid(), rank.plan.sensitivity(), 1e-9);
  }
}

TEST(SharesRelease, GradientIsTheSumOfAllRanksOverTheDivisorAndNothingMore) {
  for (const std::string numerics : {"exact", "fp32"}) {
    Rank rank(0, numerics);
    for (int64_t i = 0; i < kParameters; ++i)
      rank.communicator.others.push_back(static_cast<int32_t>(i * 7919 % 4000000 - 2000000));
    const NoisyGradient gradient = rank.release(std::vector<int32_t>(kParameters, 99));
    const std::vector<float> values = gradient.values();
    for (int64_t i = 0; i < kParameters; ++i) {
      const double sum = static_cast<double>(rank.communicator.sent[i]) + rank.communicator.others[i];
      ASSERT_EQ(values[i], static_cast<float>(sum * (rank.plan.lane_grid() / 8))) << i;
    }
  }
}

// numerics = fp32: one dither of the complete sum, which is finer than the lanes; exact: none.
TEST(SharesRelease, SumsAreDitheredOnceWhereTheLanesAreCoarser) {
  std::vector<int32_t> sum(kParameters), nothing(kParameters);
  for (int64_t i = 0; i < kParameters; ++i) sum[i] = static_cast<int32_t>(i * 31 - 1000000);
  for (const std::string numerics : {"exact", "fp32"}) {
    Rank with(1, numerics), without(1, numerics);
    with.release(sum);
    without.release(nothing);
    std::vector<int64_t> expected(sum.begin(), sum.end());
    const int shift = with.plan.noise_shares()->share.dither_shift;
    EXPECT_EQ(shift > 0, numerics == "fp32");
    dither(key_of(1, Purpose::kDither), 0, 0, shift, expected);
    for (int64_t i = 0; i < kParameters; ++i)
      ASSERT_EQ(with.communicator.sent[i] - without.communicator.sent[i], expected[i]) << numerics << i;
  }
}

TEST(SharesRelease, ASumOfManyContributionsIsCutAfterItsLastBit) {
  Rank rank(2);
  ClippedSum sum = ClippedSumAccess::make(std::vector<int32_t>(kParameters, INT32_MAX));
  for (int k = 0; k < 3; ++k) {
    const auto room = ClippedSumAccess::reserve(sum, ClippedSumAccess::kFlushEvery);
    std::fill(room.begin(), room.end(), INT32_MAX);
  }
  rank.privatizer.release(std::move(sum), 0, 0);
  Rank bare(2);
  bare.release(std::vector<int32_t>(kParameters));
  const int64_t clamp = rank.plan.noise_shares()->share.clamp;
  for (int64_t i = 0; i < kParameters; i += 997)
    ASSERT_EQ(rank.communicator.sent[i] - bare.communicator.sent[i], clamp) << i;
}

TEST(SharesRelease, ChargesBeforeItAgreesAndAgreesBeforeItSums) {
  Rank rank(0);
  std::vector<int64_t> charges_at_call;
  rank.communicator.at_call = [&](const std::string&) { charges_at_call.push_back(rank.ledger.charges()); };
  rank.release(std::vector<int32_t>(kParameters));
  EXPECT_EQ(rank.communicator.calls, (std::vector<std::string>{"gather", "sum"}));
  EXPECT_EQ(charges_at_call, (std::vector<int64_t>{1, 1}));
  EXPECT_NE(rank.ledger.text().find("\"colluding_ranks\":0"), std::string::npos);
  EXPECT_NE(rank.ledger.text().find("\"share_sigma\""), std::string::npos);
}

// A draw is spent by the attempt to sum it: two releases of one draw are not two sampled events.
TEST(SharesRelease, ARetryIsANewStepWithANewDrawAChargeAndFreshNoise) {
  Rank rank(1);
  const std::vector<int32_t> sum(kParameters, 7);
  rank.communicator.fails_once = true;
  EXPECT_THROW(rank.release(sum), CommError);
  const std::vector<int32_t> lost = rank.communicator.sent;
  EXPECT_EQ(rank.communicator.calls, (std::vector<std::string>{"gather", "sum"})) << "what failed came again";
  EXPECT_EQ(rank.ledger.charges(), 1);
  EXPECT_EQ(rank.privatizer.next_draw(), 1);
  EXPECT_THROW(rank.privatizer.release(ClippedSumAccess::make(sum), 0, 0), InternalError) << "the same draw";
  rank.release(sum);
  EXPECT_EQ(rank.ledger.charges(), 2);
  int64_t equal = 0;
  for (int64_t i = 0; i < kParameters; ++i) equal += lost[i] == rank.communicator.sent[i];
  EXPECT_LE(equal, 5) << "the noise of the failed attempt came again";
}

TEST(SharesRelease, AnotherNumberOfRanksThanThePlansIsRefused) {
  const plan::PrivacyPlan plan = shares_plan("exact").for_ranks(4);
  OneOfThree communicator(0);
  Ledger ledger = Ledger::in_memory({{"plan", plan.to_json()}, {"plan_digest", plan.digest()}});
  const StreamKey key({1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_THROW(Privatizer(plan, communicator, ledger, key, key), InternalError);
  const plan::PrivacyPlan three = shares_plan("exact");
  EXPECT_THROW(Privatizer(three, communicator, ledger, key), InternalError) << "without a key for the dither";
}

}  // namespace
}  // namespace dpfa::privacy
