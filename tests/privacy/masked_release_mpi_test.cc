// aggregation.mode = masked is the release of plaintext, and nothing else, with masks around the sum. Runs on
// every rank.
#include <gtest/gtest.h>

#include <cstring>

#include "src/privacy/privatizer.h"
#include "tests/support/clipped_sum_access.h"
#include "tests/support/engine_oracle.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/wiretap.h"

namespace dpfa::privacy {
namespace {

using accounting::Ledger;
using comm::secagg::IntegrityError;
using test::ClippedSumAccess;
using testing::world;

constexpr int64_t kParameters = 5000;

plan::PrivacyPlan make_plan(const plan::AggregationConfig& aggregation) {
  plan::PrivacyConfig config;
  config.noise_multiplier = 1;
  config.expected_batch_size = 8;
  config.sample_rate = 0.1;
  config.target_delta = 1e-5;
  config.steps = 10;
  return plan::PrivacyPlan::derive(config, aggregation, kParameters);
}

StreamKey noise_key() { return StreamKey({1, 2, 3, 4, 5, 6, 7, 8}); }

Ledger open_ledger(const plan::PrivacyPlan& plan) {
  return Ledger::in_memory({{"plan", plan.to_json()}, {"plan_digest", plan.digest()}});
}

comm::secagg::SessionKeys mask_keys() { return testing::fixed_session(world().rank(), world().size()); }

ClippedSum sum_of_this_rank(int64_t step) {
  std::vector<int32_t> sum(kParameters);
  for (int64_t i = 0; i < kParameters; ++i)
    sum[static_cast<size_t>(i)] =
        static_cast<int32_t>((i * 7919 + step * 31 + world().rank()) % 100003) - 50000;
  return ClippedSumAccess::make(std::move(sum));
}

TEST(MaskedRelease, HasTheBitsOfAPlainOne) {
  const plan::PrivacyPlan plain_plan = make_plan({}), masked_plan = make_plan({.mode = "masked"});
  Ledger plain_ledger = open_ledger(plain_plan), masked_ledger = open_ledger(masked_plan);
  Privatizer plain(plain_plan, world(), plain_ledger, noise_key());
  Privatizer masked(masked_plan, world(), masked_ledger, noise_key(), std::nullopt, mask_keys());
  for (int64_t step = 0; step < 3; ++step) {
    const NoisyGradient one = plain.release(sum_of_this_rank(step), step, plain.next_draw());
    const NoisyGradient other = masked.release(sum_of_this_rank(step), step, masked.next_draw());
    ASSERT_EQ(one.values(), other.values()) << "step " << step;
  }
}

StreamKey key_of(int rank, Purpose purpose) {
  return RootKey::from_insecure_seed(static_cast<uint64_t>(50 + rank)).stream(purpose);
}

// On this rank, over `communicator`; every rank sums up its own number, kParameters times.
struct SharesRelease {
  plan::PrivacyPlan plan;
  Ledger ledger;
  Privatizer privatizer;
  std::vector<RankContribution> contributions;  // of all ranks

  SharesRelease(comm::Communicator& communicator, int64_t lane_bits)
      : plan(make_plan({.mode = "masked",
                        .noise = "shares",
                        .colluding_ranks = 1,
                        .ranks = world().size(),
                        .lane_bits = lane_bits})),
        ledger(open_ledger(plan)),
        privatizer(plan, communicator, ledger, key_of(world().rank(), Purpose::kNoise),
                   key_of(world().rank(), Purpose::kDither), mask_keys()) {
    for (int rank = 0; rank < world().size(); ++rank)
      contributions.emplace_back(plan.noise_shares()->share, key_of(rank, Purpose::kNoise),
                                 key_of(rank, Purpose::kDither));
  }

  NoisyGradient release(int64_t draw) {
    return privatizer.release(ClippedSumAccess::make(std::vector<int32_t>(kParameters, world().rank())),
                              /*step=*/draw, draw);
  }
  // The sum of what all ranks add: dithered, cut and under the noise of their shares.
  std::vector<int64_t> expected(int64_t draw) const {
    std::vector<int64_t> sum(kParameters);
    std::vector<int32_t> lanes(kParameters);
    for (int rank = 0; rank < world().size(); ++rank) {
      contributions[static_cast<size_t>(rank)].make(static_cast<uint64_t>(draw), 0,
                                                    std::vector<int64_t>(kParameters, rank), lanes);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += lanes[i];
    }
    return sum;
  }
  void expect_equal(const NoisyGradient& gradient, int64_t draw) const {
    const std::vector<int64_t> sum = expected(draw);
    const std::vector<float> values = gradient.values();
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(values[i], static_cast<float>(static_cast<double>(sum[i]) * (plan.lane_grid() / 8)))
          << "draw " << draw << ", element " << i;
  }
};

TEST(MaskedRelease, OfNoiseSharesIsTheSumOfWhatAllRanksAdd) {
  for (const int64_t bits : {21, 32}) {
    SharesRelease rank(world(), bits);
    rank.expect_equal(rank.release(0), 0);
  }
}

// The last rank alters one word, then sends none, then a wrong verdict; the fourth release is left alone.
TEST(MaskedRelease, ThatWasTamperedWithIsVoidUnderItsNoiseAndTheNextOneIsANewDraw) {
  constexpr int kWords = 1, kVerdicts = 3, kOfOneRelease = 4;  // operations; the first is the agreement
  std::vector<std::vector<uint32_t>> sent, received;
  const auto keep = [&](std::vector<std::vector<uint32_t>>& words, int operation, auto bytes) {
    if (operation % kOfOneRelease == kWords) words.push_back(testing::words_of({bytes.begin(), bytes.end()}));
  };
  testing::Wiretap wire(
      [&](int operation, std::span<std::byte> bytes) {
        keep(sent, operation, bytes);
        if (world().rank() + 1 != world().size()) return;
        if (operation == kWords) bytes[0] ^= std::byte(1);
        if (operation == kOfOneRelease + kWords) std::fill(bytes.begin(), bytes.end(), std::byte(0));
        if (operation == 2 * kOfOneRelease + kVerdicts) bytes[0] ^= std::byte(1);
      },
      [&](int operation, std::span<std::byte> bytes) { keep(received, operation, bytes); });
  SharesRelease rank(wire, 32);
  for (int64_t draw = 0; draw < 3; ++draw) {
    EXPECT_EQ(rank.privatizer.next_draw(), draw);
    EXPECT_THROW(rank.release(draw), IntegrityError);
    EXPECT_EQ(rank.ledger.charges(), draw + 1);
    EXPECT_THROW(rank.release(draw), InternalError) << "the same draw";
    EXPECT_EQ(wire.operations(), (draw + 1) * kOfOneRelease) << "something was sent for a draw that is spent";
  }
  rank.expect_equal(rank.release(3), 3);
  EXPECT_EQ(rank.ledger.charges(), 4);
  // What was to be seen of the void steps: words under unrelated masks, and sums under the noise of their
  // draws.
  ASSERT_EQ(sent.size(), 4u);
  for (size_t step = 0; step < sent.size(); ++step) {
    EXPECT_LT(testing::byte_excess(sent[step]), 7) << step;
    std::vector<uint32_t> change = sent[step];
    for (size_t i = 0; i < change.size(); ++i) change[i] -= sent[(step + 1) % sent.size()][i];
    EXPECT_LT(testing::byte_excess(change), 7) << step;
  }
  for (const int64_t draw : {0, 2}) {
    const std::vector<int64_t> sum = rank.expected(draw);
    for (size_t i = 1; i < sum.size(); ++i)
      ASSERT_EQ(received[static_cast<size_t>(draw)][i], static_cast<uint32_t>(sum[i])) << draw;
  }
  EXPECT_LT(testing::byte_excess(received[1]), 7) << "where a rank is lost the masks do not cancel";
}

TEST(MaskedRelease, ThatDoesNotVerifyIsChargedAndGivesNoRankAGradient) {
  const plan::PrivacyPlan plan = make_plan({.mode = "masked"});
  Ledger ledger = open_ledger(plan);
  comm::secagg::SessionKeys keys = mask_keys();
  if (world().rank() == world().size() - 1) keys.lanes.add_key(StreamKey({1}), false);
  Privatizer privatizer(plan, world(), ledger, noise_key(), std::nullopt, std::move(keys));
  EXPECT_THROW(privatizer.release(sum_of_this_rank(0), 0, privatizer.next_draw()), IntegrityError);
  EXPECT_EQ(ledger.charges(), 1);
  // Nothing lowers the charge, and the next attempt is a new draw.
  EXPECT_THROW(privatizer.release(sum_of_this_rank(0), 0, privatizer.next_draw()), IntegrityError);
  EXPECT_EQ(ledger.charges(), 2);
}

TEST(MaskedRelease, NeedsKeysExactlyWhereThePlanSaysMasked) {
  const plan::PrivacyPlan masked = make_plan({.mode = "masked"}), plain = make_plan({});
  Ledger masked_ledger = open_ledger(masked), plain_ledger = open_ledger(plain);
  EXPECT_THROW(Privatizer(masked, world(), masked_ledger, noise_key()), InternalError);
  EXPECT_THROW(Privatizer(plain, world(), plain_ledger, noise_key(), std::nullopt, mask_keys()),
               InternalError);
}

}  // namespace
}  // namespace dpfa::privacy
