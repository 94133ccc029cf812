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
  const plan::PrivacyPlan plan = test::make_plan({}, kParameters);
  Ledger plain_ledger = open_ledger(plan), masked_ledger = open_ledger(plan);
  Privatizer plain(plan, world(), plain_ledger, noise_key());
  Privatizer masked(plan, world(), masked_ledger, noise_key(), std::nullopt, mask_keys());
  for (int64_t step = 0; step < 3; ++step) {
    const NoisyGradient one = plain.release(sum_of_this_rank(step), step, plain.next_draw());
    const NoisyGradient other = masked.release(sum_of_this_rank(step), step, masked.next_draw());
    ASSERT_EQ(one.values(), other.values()) << "step " << step;
  }
  EXPECT_EQ(plain_ledger.digest(), masked_ledger.digest());
}

TEST(MaskedRelease, ThatDoesNotVerifyIsChargedAndGivesNoRankAGradient) {
  const plan::PrivacyPlan plan = test::make_plan({}, kParameters);
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

}  // namespace
}  // namespace dpfa::privacy
