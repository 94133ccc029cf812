// Events as data: text round trip, relations, counts and sensitivities, and what each is equivalent to.
#include "accounting/event.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/finite_loss.h"
#include "accounting/rdp.h"
#include "accounting/schedule.h"

namespace dpfa::accounting {
namespace {

constexpr Relation kAdd = Relation::kAddOrRemoveOne, kReplace = Relation::kReplaceOne,
                   kZero = Relation::kZeroOut;
constexpr double kThird = 1.0 / 3;  // survives only a text with all its digits

// One of each kind, for a relation that it allows.
std::vector<Event> all_events() {
  return {GaussianEvent{kThird, 2, kReplace},
          PoissonSampledGaussianEvent{0.1 * kThird, 2 * kThird, 1, kZero},
          TruncatedPoissonGaussianEvent{0.1, 20, 100, 2, kThird, kAdd},
          SampledWithoutReplacementGaussianEvent{0.1, 7 * kThird, 2, kReplace},
          SameSampleGaussianEvent{0.1, {2, 7 * kThird}, 3, kAdd},
          ShuffledEpochGaussianEvent{5 * kThird, 1, kZero},
          TreeAggregationEvent{7 * kThird, 10, 1, kAdd},
          BandedMatrixEvent{0.01, 4 * kThird, 16, 130, kZero},
          LaplaceEvent{5 * kThird, 2, kAdd},
          DiscreteGaussianEvent{7 * kThird, 1, kReplace},
          PoissonSampledDiscreteGaussianEvent{0.1, 20 * kThird, 2, 5, 5, kAdd},
          NoiseSharesEvent{0.1, 20 * kThird, 4, 1, 2, 5, 5, kAdd},
          DiscreteLaplaceEvent{kThird, 2, kAdd},
          SkellamEvent{40 * kThird, 2, 1, kAdd},
          RandomizedResponseEvent{kThird, 4, kReplace},
          ExponentialMechanismEvent{kThird, kAdd},
          ZeroConcentratedEvent{0.1 * kThird, kThird, kAdd},
          ApproximateDpEvent{kThird, 1e-7 * kThird, kReplace},
          ComposedEvent{{{LaplaceEvent{2, 1, kAdd}, 3}, {ComposedEvent{{{GaussianEvent{2}, 2}}}, 5}}}};
}

TEST(Event, EveryOneSurvivesItsTextToTheLastBit) {
  ASSERT_EQ(all_events().size(), std::variant_size_v<Event>);
  for (size_t i = 0; i < all_events().size(); ++i) {
    const Event event = all_events()[i];
    ASSERT_EQ(event.index(), i);
    const nlohmann::json text = to_json(event);
    const Event read = event_from_json(nlohmann::json::parse(text.dump()));
    EXPECT_EQ(read.index(), i);
    EXPECT_EQ(to_json(read), text);
    EXPECT_EQ(rdp_of(read, 3), rdp_of(event, 3)) << text;
    EXPECT_EQ(relation(read), relation(event)) << text;
  }
}

TEST(Event, MissingAndSurplusAndMisspeltFieldsAreRefusedOfEveryOne) {
  for (const Event& event : all_events()) {
    const nlohmann::json text = to_json(event);
    for (const auto& [name, value] : text.items()) {
      const bool optional = event.index() <= 1 && (name == "sensitivity" || name == "relation");
      nlohmann::json changed = text;
      changed.erase(name);
      if (!optional) {
        EXPECT_THROW(event_from_json(changed), UnsupportedEvent) << changed;
      }
      changed["the_" + name] = value;
      EXPECT_THROW(event_from_json(changed), UnsupportedEvent) << changed;
      changed = text;
      changed[name] = "7";
      EXPECT_THROW(event_from_json(changed), UnsupportedEvent) << changed;
    }
    nlohmann::json surplus = text;
    surplus["count"] = 3;
    EXPECT_THROW(event_from_json(surplus), UnsupportedEvent);
  }
}

TEST(Event, TextOfTheTwoStepEventsIsThatOfExistingLedgers) {
  EXPECT_EQ(to_json(PoissonSampledGaussianEvent{0.25, 1.5}).dump(),
            R"({"mechanism":"poisson_subsampled_gaussian","noise_multiplier":1.5,"sample_rate":0.25})");
  EXPECT_EQ(to_json(GaussianEvent{1.5}).dump(), R"({"mechanism":"gaussian","noise_multiplier":1.5})");
}

TEST(Event, CompositionsNestedWithoutEndAreRefused) {
  nlohmann::json event = to_json(GaussianEvent{1});
  for (int i = 0; i < 40; ++i)
    event = {{"mechanism", "composed"}, {"parts", {{{"event", event}, {"count", 1}}}}};
  EXPECT_THROW(event_from_json(event), UnsupportedEvent);
}

TEST(Event, NumbersOutOfRangeAreConfigErrors) {
  for (const Event& event : std::vector<Event>{
           GaussianEvent{-1}, GaussianEvent{1, 0}, GaussianEvent{INFINITY},
           PoissonSampledGaussianEvent{1.1, 1}, PoissonSampledGaussianEvent{NAN, 1},
           TruncatedPoissonGaussianEvent{0.1, 0, 10, 1}, SameSampleGaussianEvent{0.1, {}, 1},
           SameSampleGaussianEvent{0.1, {1}, 0}, BandedMatrixEvent{0.1, 1, 0, 10}, DiscreteLaplaceEvent{0, 1},
           SkellamEvent{-1, 1, 1}, RandomizedResponseEvent{0.5, 1}, ApproximateDpEvent{1, 1},
           ZeroConcentratedEvent{-1, 1}, PoissonSampledDiscreteGaussianEvent{0.1, 4, 1, 3, 2}}) {
    EXPECT_THROW(check_event(event), ConfigError) << to_json(event);
  }
}

TEST(Event, RelationsWithoutAProofAreRefused) {
  for (const Event& event : std::vector<Event>{
           TruncatedPoissonGaussianEvent{0.1, 20, 100, 2, 1, kZero},
           TruncatedPoissonGaussianEvent{0.1, 20, 100, 2, 1, kReplace},
           SampledWithoutReplacementGaussianEvent{0.1, 2, 1, kAdd}, ShuffledEpochGaussianEvent{1, 1, kAdd},
           ShuffledEpochGaussianEvent{1, 1, kReplace}, BandedMatrixEvent{0.1, 1, 2, 10, kAdd},
           PoissonSampledDiscreteGaussianEvent{0.1, 4, 1, 0, 1, kReplace},
           RandomizedResponseEvent{0.5, 2, kAdd}}) {
    EXPECT_THROW(epsilon_of(event, 1, 1e-5), UnsupportedEvent) << to_json(event);
  }
}

TEST(Event, DifferentRelationsDoNotComposeHoweverTheyAreNested) {
  const Event add = LaplaceEvent{2, 1, kAdd}, zero = LaplaceEvent{2, 1, kZero};
  EXPECT_THROW(epsilon_of(std::vector<Charge>{{add, 1}, {zero, 1}}, 1e-5), UnsupportedEvent);
  EXPECT_THROW(epsilon_of(std::vector<Charge>{{add, 1}, {zero, 0}}, 1e-5), UnsupportedEvent);
  EXPECT_THROW(epsilon_of(ComposedEvent{{{add, 1}, {zero, 1}}}, 1, 1e-5), UnsupportedEvent);
  EXPECT_THROW(epsilon_of(ComposedEvent{{{add, 1}, {ComposedEvent{{{zero, 1}}}, 1}}}, 1, 1e-5),
               UnsupportedEvent);
}

TEST(Event, EveryOneHonoursItsCount) {
  for (const Event& event : all_events()) {
    for (double order : {1.5, 4.0}) {
      const double one = rdp_of(event, order);
      const Charge charge{event, 7};
      EXPECT_GT(one, 0) << to_json(event);
      EXPECT_NEAR(rdp_of(simplify(std::span(&charge, 1)), order), 7 * one, 1e-12 * one) << to_json(event);
      EXPECT_NEAR(rdp_of(ComposedEvent{{{event, 3}, {ComposedEvent{{{event, 2}}}, 2}}}, order), 7 * one,
                  1e-12 * one)
          << to_json(event);
    }
    EXPECT_GT(epsilon_upper_bound(event, 300, 1e-3), 1.5 * epsilon_upper_bound(event, 30, 1e-3))
        << to_json(event);
  }
}

TEST(Event, CountsBeyondExactDoublesAreRefused) {
  const ComposedEvent composed{{{GaussianEvent{1}, int64_t{1} << 40}}};
  EXPECT_THROW(epsilon_of(composed, int64_t{1} << 40, 1e-5), UnsupportedEvent);
}

TEST(Event, TwiceTheSensitivityIsHalfTheNoise) {
  const std::vector<std::pair<Event, Event>> pairs = {
      {GaussianEvent{3, 2}, GaussianEvent{1.5}},
      {PoissonSampledGaussianEvent{0.1, 3, 2}, PoissonSampledGaussianEvent{0.1, 1.5}},
      {TruncatedPoissonGaussianEvent{0.1, 15, 100, 3, 2},
       TruncatedPoissonGaussianEvent{0.1, 15, 100, 1.5, 1}},
      {SampledWithoutReplacementGaussianEvent{0.1, 3, 2},
       SampledWithoutReplacementGaussianEvent{0.1, 1.5, 1}},
      {ShuffledEpochGaussianEvent{3, 2}, ShuffledEpochGaussianEvent{1.5, 1}},
      {TreeAggregationEvent{3, 9, 2}, TreeAggregationEvent{1.5, 9, 1}},
      {LaplaceEvent{3, 2}, LaplaceEvent{1.5, 1}},
      {DiscreteGaussianEvent{3, 2}, DiscreteGaussianEvent{1.5, 1}}};
  for (const auto& [wide, narrow] : pairs) {
    EXPECT_NEAR(rdp_of(wide, 3), rdp_of(narrow, 3), 1e-14 * rdp_of(wide, 3)) << to_json(wide);
    EXPECT_NEAR(epsilon_upper_bound(wide, 5, 1e-5), epsilon_upper_bound(narrow, 5, 1e-5), 1e-9)
        << to_json(wide);
  }
}

TEST(Event, RewritingsAreTheEquivalentSimpleEvents) {
  auto same = [](const Event& event, int64_t count, const Event& simple) {
    const Charge charge{event, 1};
    const Schedule schedule = simplify(std::span(&charge, 1));
    ASSERT_EQ(schedule.parts.size(), 1u);
    EXPECT_EQ(to_json(schedule.parts[0].event), to_json(simple));
    EXPECT_EQ(schedule.parts[0].count, count);
  };
  same(SameSampleGaussianEvent{0.1, {4}, 4}, 1, PoissonSampledGaussianEvent{0.1, 2});
  same(SameSampleGaussianEvent{0.1, {1, 1, 1, 1}, 1}, 1, PoissonSampledGaussianEvent{0.1, 0.5});
  same(BandedMatrixEvent{0.01, 1, 16, 128}, 8, PoissonSampledGaussianEvent{0.01, 1, 1, kZero});
  same(BandedMatrixEvent{0.01, 1, 16, 129}, 9, PoissonSampledGaussianEvent{0.01, 1, 1, kZero});
  same(TreeAggregationEvent{2, 7, 1}, 1, GaussianEvent{2 / std::sqrt(3.0)});
  same(TreeAggregationEvent{2, 8, 1}, 1, GaussianEvent{1});
  same(ShuffledEpochGaussianEvent{2, 1}, 1, GaussianEvent{2, 1, kZero});
  same(PoissonSampledGaussianEvent{1, 2}, 1, GaussianEvent{2});
  same(PoissonSampledGaussianEvent{1, 2, 1, kReplace}, 1, GaussianEvent{1, 1, kReplace});
  same(SampledWithoutReplacementGaussianEvent{1, 2, 1}, 1, GaussianEvent{2, 1, kReplace});
  // The published epsilon of 128 iterations with 16 bands is a lower bound on what any accountant may report.
  EXPECT_GE(epsilon_upper_bound(BandedMatrixEvent{0.01, 1, 16, 128}, 1, 1e-6), 0.5668);
}

TEST(Event, ReleasesThatSayNothingCostNothing) {
  for (const Event& event :
       std::vector<Event>{PoissonSampledGaussianEvent{0, 1}, TruncatedPoissonGaussianEvent{0, 3, 10, 1, 1},
                          SampledWithoutReplacementGaussianEvent{0, 1, 1},
                          PoissonSampledDiscreteGaussianEvent{0, 4, 1, 0, 1}, TreeAggregationEvent{1, 0, 1},
                          BandedMatrixEvent{0.1, 1, 2, 0}, ZeroConcentratedEvent{0, 0},
                          ApproximateDpEvent{0, 0}, DiscreteLaplaceEvent{1, 0}, ComposedEvent{}}) {
    EXPECT_EQ(epsilon_upper_bound(event, 10, 1e-5), 0) << to_json(event);
  }
}

TEST(Event, ReleasesWithoutNoiseCostEverything) {
  for (const Event& event : std::vector<Event>{
           GaussianEvent{0}, PoissonSampledGaussianEvent{0.1, 0},
           TruncatedPoissonGaussianEvent{0.1, 3, 10, 0, 1}, SampledWithoutReplacementGaussianEvent{0.1, 0, 1},
           SameSampleGaussianEvent{0.1, {1, 0}, 1}, PoissonSampledDiscreteGaussianEvent{0.1, 0, 1, 0, 1},
           TreeAggregationEvent{0, 3, 1}, BandedMatrixEvent{0.1, 0, 2, 9}, LaplaceEvent{0, 1},
           DiscreteGaussianEvent{0, 1}, SkellamEvent{0, 1, 1}, RandomizedResponseEvent{0, 2},
           PoissonSampledGaussianEvent{0.1, 0, 1, kReplace}}) {
    EXPECT_EQ(epsilon_upper_bound(event, 1, 1e-5), INFINITY) << to_json(event);
    EXPECT_EQ(delta_of(event, 1, 1), 1) << to_json(event);
  }
}

TEST(Event, ItsOwnDeltaIsTakenOffTheTarget) {
  const ApproximateDpEvent event{0.1, 1e-6};
  for (int64_t count : {1, 10, 200}) {
    const FiniteLoss exact = FiniteLoss::approximate_dp(0.1, 1e-6).repeated(count);
    for (double delta : {3e-4, 1e-3}) {
      EXPECT_GE(epsilon_upper_bound(event, count, delta), exact.epsilon(delta) * (1 - 1e-9)) << count;
      EXPECT_LE(epsilon_upper_bound(event, count, delta), 0.1 * static_cast<double>(count) * (1 + 1e-9));
    }
    for (double epsilon : {0.05, 0.5, 3.0})
      EXPECT_GE(delta_of(event, count, epsilon), exact.delta(epsilon) * (1 - 1e-9))
          << count << " " << epsilon;
  }
  EXPECT_EQ(epsilon_upper_bound(event, 2, 1e-6), INFINITY);  // less delta than the events have of their own
}

TEST(Event, PureReleasesComposeAtDeltaZero) {
  EXPECT_NEAR(epsilon_upper_bound(LaplaceEvent{2, 1}, 6, 0), 3, 1e-8);
  EXPECT_NEAR(epsilon_upper_bound(RandomizedResponseEvent{0.5, 2}, 10, 0), 10 * std::log(3), 1e-7);
  EXPECT_NEAR(epsilon_upper_bound(ExponentialMechanismEvent{0.5}, 10, 0), 5, 1e-8);
  EXPECT_NEAR(epsilon_upper_bound(DiscreteLaplaceEvent{0.25, 2}, 4, 0), 2, 1e-8);
}

}  // namespace
}  // namespace dpfa::accounting
