// aggregation.mode = masked is the release of plaintext, and nothing else, with masks around the sum. Runs on
// every rank.
#include <gtest/gtest.h>

#include <cstring>

#include "src/privacy/privatizer.h"
#include "tests/support/clipped_sum_access.h"
#include "tests/support/engine_oracle.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secagg_keys.h"

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

TEST(MaskedRelease, OfNoiseSharesIsTheSumOfWhatAllRanksAdd) {
  for (const int64_t bits : {21, 32}) {
    const plan::PrivacyPlan plan = make_plan({.mode = "masked",
                                              .noise = "shares",
                                              .colluding_ranks = 1,
                                              .ranks = world().size(),
                                              .lane_bits = bits});
    Ledger ledger = open_ledger(plan);
    const int me = world().rank();
    Privatizer privatizer(plan, world(), ledger, key_of(me, Purpose::kNoise), key_of(me, Purpose::kDither),
                          mask_keys());
    const NoisyGradient gradient =
        privatizer.release(ClippedSumAccess::make(std::vector<int32_t>(kParameters, me)), 0, 0);
    std::vector<int64_t> expected(kParameters);
    std::vector<int32_t> lanes(kParameters);
    for (int rank = 0; rank < world().size(); ++rank) {
      const RankContribution contribution(plan.noise_shares()->share, key_of(rank, Purpose::kNoise),
                                          key_of(rank, Purpose::kDither));
      contribution.make(0, 0, std::vector<int64_t>(kParameters, rank), lanes);
      for (int64_t i = 0; i < kParameters; ++i)
        expected[static_cast<size_t>(i)] += lanes[static_cast<size_t>(i)];
    }
    const std::vector<float> values = gradient.values();
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(values[i], static_cast<float>(static_cast<double>(expected[i]) * (plan.lane_grid() / 8)))
          << bits << " bits, element " << i;
  }
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
