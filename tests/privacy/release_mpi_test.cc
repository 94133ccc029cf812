// Release and sampling across ranks: one agreement, one sum, one noise.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "src/base/error.h"
#include "src/data/sampler.h"
#include "src/privacy/agreement.h"
#include "src/privacy/clipper.h"
#include "src/privacy/privatizer.h"
#include "tests/support/clipped_sum_access.h"
#include "tests/support/engine_oracle.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/statistics.h"

namespace dpfa::privacy {
namespace {

using accounting::Ledger;
using test::ClippedSumAccess;
using test::Example;
using testing::world;

constexpr int64_t kTokens = 16, kVocab = 61, kRecords = 40;
constexpr plan::Gpt2Shape kShape{
    .layers = 1, .width = 16, .heads = 2, .positions = kTokens, .vocab = kVocab, .tied_head = true};

StreamKey noise_key() { return StreamKey({1, 2, 3, 4, 5, 6, 7, 8}); }

Ledger open_ledger(const plan::PrivacyPlan& plan) {
  return Ledger::in_memory({{"plan", plan.to_json()}, {"plan_digest", plan.digest()}});
}

// Whether `bytes` are equal on all ranks.
bool equal_on_all_ranks(std::span<const std::byte> bytes) {
  const std::vector<std::byte> gathered = world().all_gather(bytes);
  for (int r = 0; r < world().size(); ++r)
    if (std::memcmp(gathered.data() + r * bytes.size(), bytes.data(), bytes.size()) != 0) return false;
  return true;
}

// `spoil` changes what the last rank brings; every rank must then refuse.
template <typename Spoil>
void expect_refused_everywhere(const char* what, Spoil spoil) {
  Standing mine{
      .step = 3, .draw = 5, .plan_digest = std::string(64, 'a'), .ledger_digest = std::string(64, 'b')};
  if (world().rank() == world().size() - 1) spoil(mine);
  try {
    agree(world(), mine);
    ADD_FAILURE() << "rank " << world().rank() << " agreed to another " << what;
  } catch (const StateError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(what), std::string::npos) << text;
    EXPECT_NE(text.find("rank " + std::to_string(world().size() - 1)), std::string::npos) << text;
  }
}

TEST(Agreement, AnyDifferenceStopsEveryRank) {
  if (world().size() == 1) GTEST_SKIP() << "one rank has nothing to differ from: not run";
  expect_refused_everywhere("step", [](Standing& s) { ++s.step; });
  expect_refused_everywhere("draw", [](Standing& s) { ++s.draw; });
  expect_refused_everywhere("privacy plan", [](Standing& s) { s.plan_digest[63] = 'c'; });
  expect_refused_everywhere("ledger", [](Standing& s) { s.ledger_digest[0] = 'c'; });
}

TEST(Agreement, EqualStandingsPass) {
  EXPECT_NO_THROW(agree(
      world(),
      {.step = 3, .draw = 5, .plan_digest = std::string(64, 'a'), .ledger_digest = std::string(64, 'b')}));
}

TEST(Release, ALedgerThatDiffersOnOneRankStopsAllRanks) {
  if (world().size() == 1) GTEST_SKIP() << "one rank has nothing to differ from: not run";
  const plan::PrivacyPlan plan = test::make_plan({}, 100);
  Ledger ledger = open_ledger(plan);
  if (world().rank() == world().size() - 1) ledger.start({{"world_size", 17}});
  Privatizer privatizer(plan, world(), ledger, noise_key());
  EXPECT_THROW(privatizer.release(ClippedSumAccess::make(std::vector<int32_t>(100)), 0, 0), StateError);
  EXPECT_EQ(ledger.charges(), 1);  // charged although nothing was released
}

TEST(Release, APlanThatDiffersOnOneRankStopsAllRanks) {
  if (world().size() == 1) GTEST_SKIP() << "one rank has nothing to differ from: not run";
  const bool odd_one = world().rank() == world().size() - 1;
  const plan::PrivacyPlan common = test::make_plan({}, 100);
  const plan::PrivacyPlan plan = test::make_plan({.expected_batch_size = odd_one ? 9.0 : 8.0}, 100);
  Ledger ledger = open_ledger(common);
  Privatizer privatizer(plan, world(), ledger, noise_key());
  EXPECT_THROW(privatizer.release(ClippedSumAccess::make(std::vector<int32_t>(100)), 0, 0), StateError);
}

TEST(Release, AllRanksHoldTheSameGradientAndTheSameLedger) {
  const plan::PrivacyPlan plan = test::make_plan({}, 1000);
  Ledger ledger = open_ledger(plan);
  Privatizer privatizer(plan, world(), ledger, noise_key());
  for (int64_t step = 0; step < 3; ++step) {
    const std::vector<int32_t> mine(1000, 100 * world().rank());
    const NoisyGradient gradient =
        privatizer.release(ClippedSumAccess::make(mine), step, privatizer.next_draw());
    const std::vector<float> values = gradient.values();
    EXPECT_TRUE(equal_on_all_ranks(std::as_bytes(std::span(values))));
    EXPECT_TRUE(equal_on_all_ranks(std::as_bytes(std::span(ledger.digest()))));
  }
}

// Ranks that all sit at the limit: the sum over ranks must not wrap to the other sign.
TEST(Release, TheSumOverRanksNeverWraps) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  const plan::PrivacyPlan plan = test::make_plan({.expected_batch_size = 1}, 2);
  Ledger ledger = open_ledger(plan);
  Privatizer privatizer(plan, world(), ledger, noise_key());
  const NoisyGradient gradient =
      privatizer.release(ClippedSumAccess::make(std::vector<int32_t>{kMost, -kMost}), 0, 0);
  const double limit = kMost * plan.grid(), noise = 10.3 * plan.noise_stddev();
  EXPECT_NEAR(gradient.values()[0], limit, noise + 1);
  EXPECT_NEAR(gradient.values()[1], -limit, noise + 1);
}

// Every rank adds its own share to its own sum: together N s_i^2, the same bits on all ranks. False alarm
// 1e-7.
TEST(Release, SharesOfAllRanksAddUpToTheNoiseOfThePlanOnEveryRank) {
  constexpr int64_t kElements = 100000;
  const int64_t ranks = world().size(), colluding = ranks > 1 ? 1 : 0;
  plan::PrivacyConfig config;
  config.noise_multiplier = 1;
  config.expected_batch_size = 1;
  config.sample_rate = 0.1;
  config.target_delta = 1e-5;
  config.steps = 10;
  const plan::PrivacyPlan plan = plan::PrivacyPlan::derive(
      config, {.mode = "masked", .noise = "shares", .colluding_ranks = colluding, .ranks = ranks}, kElements);
  const RootKey root = RootKey::from_insecure_seed(static_cast<uint64_t>(300 + world().rank()));
  Ledger ledger = open_ledger(plan);
  Privatizer privatizer(plan, world(), ledger, root.stream(Purpose::kNoise), root.stream(Purpose::kDither),
                        testing::fixed_session(world().rank(), world().size(), static_cast<int>(colluding)));
  const std::vector<int32_t> mine(kElements, 1000 * (world().rank() + 1));
  const NoisyGradient gradient = privatizer.release(ClippedSumAccess::make(mine), 0, 0);
  const std::vector<float> values = gradient.values();
  EXPECT_TRUE(equal_on_all_ranks(std::as_bytes(std::span(values))));
  EXPECT_TRUE(equal_on_all_ranks(std::as_bytes(std::span(ledger.digest()))));
  const double sum = 500.0 * static_cast<double>(ranks * (ranks + 1)) * plan.lane_grid();
  const double variance = plan.sensitivity() * plan.sensitivity() * static_cast<double>(ranks) /
                          static_cast<double>(ranks - colluding);
  double squares = 0;
  for (const float v : values) squares += (v - sum) * (v - sum) / variance;
  EXPECT_LE(std::abs(squares - kElements) / std::sqrt(2.0 * kElements), testing::kZ7);
}

// The integer sum of one draw, where `rank` of `ranks` does its part.
std::vector<int64_t> part(Clipper& clipper, std::span<const Example> examples, int64_t draw, int rank,
                          int ranks, int64_t slots) {
  const data::PoissonSampler sampler(StreamKey({9, 8, 7, 6, 5, 4, 3, 2}), 0.3, rank, ranks);
  const std::vector<int64_t> drawn = sampler.draw(draw, kRecords);
  ClippedSum sum = clipper.zero();
  for (size_t first = 0; first < drawn.size(); first += slots) {
    const auto chunk = std::span(drawn).subspan(first, std::min<size_t>(slots, drawn.size() - first));
    clipper.accumulate(test::pack(examples, chunk, slots, kTokens), nullptr, sum);
  }
  return ClippedSumAccess::total(sum);
}

// Under one sampling key (reproducible runs) the number of ranks changes no bit of the sum.
TEST(Release, TheSumDoesNotDependOnTheNumberOfRanks) {
  std::vector<Example> examples;
  for (int64_t r = 0; r < kRecords; ++r)
    examples.push_back(test::padded_example(static_cast<uint64_t>(r), 1 + r % kTokens, kTokens, kVocab));
  const std::vector<float> weights = test::made_parameters(kShape);
  const plan::PrivacyPlan plan = test::make_plan({}, kShape.parameter_count());
  model::Gpt2 model(kShape, at::kFloat);
  model.bind(weights);
  Clipper clipper(plan, model);
  for (int64_t draw = 0; draw < 3; ++draw) {
    std::vector<int64_t> sum = part(clipper, examples, draw, world().rank(), world().size(), /*slots=*/3);
    world().all_reduce_sum(std::span<int64_t>(sum));
    EXPECT_EQ(sum, part(clipper, examples, draw, 0, 1, /*slots=*/4)) << "draw " << draw;
    EXPECT_GT(test::l2(std::span<const int64_t>(sum)), 0);
  }
}

}  // namespace
}  // namespace dpfa::privacy
