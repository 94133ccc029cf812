// noise = shares in the plan: how much noise each rank adds, which integers travel, what is claimed against
// whom, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "accounting/accountant.h"
#include "src/base/error.h"
#include "src/plan/claims.h"
#include "src/plan/share_layout.h"
#include "tests/plan/given_noise.h"

namespace dpfa::plan {
namespace {

AggregationConfig shares_of(int64_t ranks, int64_t colluding) {
  return {.mode = "masked", .noise = "shares", .colluding_ranks = colluding, .ranks = ranks};
}

PrivacyPlan plan_of(const AggregationConfig& aggregation, const PrivacyConfig& privacy = given_noise()) {
  return PrivacyPlan::derive(privacy, aggregation, kParameters);
}

// With runtime.constant_step_slots.
PrivacyPlan constant_plan_of(const AggregationConfig& aggregation,
                             const PrivacyConfig& privacy = given_noise()) {
  return PrivacyPlan::derive(privacy, aggregation, kParameters, /*constant_work=*/true);
}

// Oracle in long double from the sentences of share_layout.h.
TEST(SharesPlan, EachRankAddsNoiseTimesSensitivityOverTheRootOfTheHonestRanks) {
  for (const std::string numerics : {"exact", "fp32"}) {
    for (const double norm : {0.1, 1.0, 10.0}) {
      for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{1, 0}, {3, 1}, {8, 4}}) {
        PrivacyConfig privacy = given_noise();
        privacy.numerics = numerics;
        privacy.max_grad_norm = norm;
        const PrivacyPlan plan = plan_of(shares_of(ranks, colluding), privacy);
        long double power = 1;
        while (power > static_cast<long double>(norm)) power /= 2;
        while (2 * power <= static_cast<long double>(norm)) power *= 2;
        const long double fine = power / (1 << 22), lane = numerics == "fp32" ? power / (1 << 20) : fine;
        const long double slack = sqrtl(kParameters) / 2 * fine / norm + 1.0L / (1 << 20) +
                                  (numerics == "fp32" ? 1.0L / (1 << 8) : 0.0L);
        const long double sensitivity = norm * (1 + slack),
                          share = 1.1L * sensitivity / sqrtl(ranks - colluding);
        EXPECT_EQ(plan.grid(), static_cast<double>(fine));
        EXPECT_EQ(plan.lane_grid(), static_cast<double>(lane));
        EXPECT_NEAR(plan.sensitivity() / sensitivity, 1, 1e-14L);
        const NoiseShares shares = plan.noise_shares().value();
        EXPECT_NEAR(shares.share.share_sigma * lane / share, 1, 1e-14L);
        EXPECT_NEAR(plan.noise_stddev() / (share * sqrtl(ranks)), 1, 1e-14L);
        EXPECT_EQ(shares.share.dither_shift, numerics == "fp32" ? 2 : 0);
        EXPECT_EQ(shares.ranks, ranks);
        EXPECT_EQ(shares.colluding_ranks, colluding);
      }
    }
  }
}

TEST(SharesPlan, EventIsOfTheIntegersThatTravel) {
  for (const std::string numerics : {"exact", "fp32"}) {
    PrivacyConfig privacy = given_noise();
    privacy.numerics = numerics;
    const PrivacyPlan plan = plan_of(shares_of(4, 1), privacy);
    const auto event = std::get<accounting::NoiseSharesEvent>(plan.event());
    EXPECT_EQ(event.sample_rate, plan.sample_rate());
    EXPECT_EQ(event.share_sigma, plan.noise_shares()->share.share_sigma);
    EXPECT_NEAR(event.sensitivity * plan.lane_grid(), plan.sensitivity(), 1e-14 * plan.sensitivity());
    EXPECT_EQ(event.dimension, kParameters);
    EXPECT_EQ(event.rounded_dimension, numerics == "fp32" ? kParameters : 0) << "exact sums are whole";
  }
}

// Signal and 12 standard deviations of all noise stay within the lanes, and the clamp takes all that is left.
TEST(SharesPlan, LanesHoldClampAndNoise) {
  for (const int64_t bits : {16, 21, 32}) {
    for (const std::string numerics : {"exact", "fp32"}) {
      for (const int64_t ranks : {1, 3, 16}) {
        PrivacyConfig privacy = given_noise();
        privacy.numerics = numerics;
        AggregationConfig aggregation = shares_of(ranks, 0);
        aggregation.lane_bits = bits;
        aggregation.clamp_norms = 0.25;
        const PrivacyPlan plan = plan_of(aggregation, privacy);
        const NoiseShares shares = *plan.noise_shares();
        const double sum = static_cast<double>(ranks * shares.share.clamp);
        const double noise = shares.share.share_sigma * std::sqrt(static_cast<double>(ranks));
        const double kappa = std::sqrt(2 * std::log(2 * kParameters / 1e-15));
        EXPECT_LT(sum + kappa * noise, std::ldexp(1.0, static_cast<int>(bits) - 1)) << bits << " " << ranks;
        EXPECT_GT(sum + kappa * noise, std::ldexp(1.0, static_cast<int>(bits) - 1) - 2.0 - ranks);
        EXPECT_GE(shares.share.clamp * plan.lane_grid(), 0.25 * plan.max_grad_norm());
        EXPECT_GE(shares.share.share_sigma, 4);
      }
    }
  }
}

TEST(SharesPlan, TheFinestGridThatHasRoomIsTaken) {
  AggregationConfig aggregation = shares_of(3, 1);
  aggregation.lane_bits = 16;
  const PrivacyPlan chosen = plan_of(aggregation);
  const int bits = chosen.to_json().at("grid_bits");
  EXPECT_GT(bits, 4);
  aggregation.grid_bits = bits;
  EXPECT_EQ(plan_of(aggregation).digest(), chosen.digest());
  aggregation.grid_bits = bits + 1;
  EXPECT_THROW(plan_of(aggregation), ConfigError);
  aggregation.grid_bits = 22;
  EXPECT_THROW(plan_of(aggregation), ConfigError);
}

TEST(SharesPlan, CalibratedNoiseMeetsTheTargetAgainstTheColludingRanks) {
  for (const std::string numerics : {"exact", "fp32"}) {
    for (const int64_t bits : {16, 32}) {
      PrivacyConfig privacy = given_noise();
      privacy.noise_multiplier.reset();
      privacy.target_epsilon = 3;
      privacy.numerics = numerics;
      AggregationConfig aggregation = shares_of(4, 2);
      aggregation.lane_bits = bits;
      aggregation.clamp_norms = 0.5;
      const PrivacyPlan plan = plan_of(aggregation, privacy);
      const auto epsilon = [&](int64_t n) { return accounting::epsilon_of(plan.event(), n, 1e-5).epsilon; };
      EXPECT_LE(epsilon(30), 3) << numerics << bits;
      EXPECT_GT(epsilon(30), 3 * 0.999);
      EXPECT_LE(epsilon(plan.allowed_charges()), 3);
      EXPECT_GT(epsilon(plan.allowed_charges() + 1), 3);
      EXPECT_LT(accounting::epsilon_of(accounting::seen_by_outsiders(plan.event()), 30, 1e-5).epsilon, 3);
      EXPECT_EQ(PrivacyPlan::from_json(plan.to_json()).digest(), plan.digest());
    }
  }
}

TEST(SharesPlan, GoesOnWithFewerRanksAndLargerSharesAgainstTheSameClaim) {
  const PrivacyPlan four = plan_of(shares_of(4, 1)), three = four.for_ranks(3);
  EXPECT_NEAR(three.noise_shares()->share.share_sigma / four.noise_shares()->share.share_sigma,
              std::sqrt(3.0 / 2), 1e-12);
  EXPECT_EQ(three.noise_multiplier(), four.noise_multiplier());
  EXPECT_EQ(three.for_ranks(4).digest(), four.digest());
  EXPECT_NE(three.digest(), four.digest());
  const auto epsilon = [](const accounting::Event& event) {
    return accounting::epsilon_of(event, 30, 1e-5).epsilon;
  };
  EXPECT_NEAR(epsilon(three.event()), epsilon(four.event()), 1e-6);
  EXPECT_LT(epsilon(seen_by_outsiders(three.event())), epsilon(seen_by_outsiders(four.event())));
  EXPECT_THROW(four.for_ranks(1), Unsupported);
}

TEST(SharesPlan, DigestDependsOnEveryKeyAndThatOfOtherRunsOnNone) {
  const std::vector<std::function<void(AggregationConfig&)>> changes = {
      [](auto& a) { a.ranks = 5; },       [](auto& a) { a.colluding_ranks = 2; },
      [](auto& a) { a.lane_bits = 21; },  [](auto& a) { a.grid_bits = 12; },
      [](auto& a) { a.clamp_norms = 5; }, [](auto& a) { a.overflow_probability = 1e-12; }};
  const std::string digest = plan_of(shares_of(4, 1)).digest(), plain = plan_of({}).digest();
  for (const auto& change : changes) {
    AggregationConfig aggregation = shares_of(4, 1), after_sum;
    change(aggregation);
    EXPECT_NE(plan_of(aggregation).digest(), digest);
    if (aggregation.colluding_ranks == 2) continue;
    change(after_sum);
    EXPECT_EQ(plan_of(after_sum).digest(), plain) << "no rank count in a plan of noise = after_sum";
  }
}

TEST(SharesPlan, WhatCannotBeClaimedIsRefusedWithASentence) {
  const auto refused = [](const std::function<void(AggregationConfig&, PrivacyConfig&)>& change,
                          ExitCode code, const std::string& words) {
    AggregationConfig aggregation = shares_of(4, 1);
    PrivacyConfig privacy = given_noise();
    change(aggregation, privacy);
    try {
      plan_of(aggregation, privacy);
      ADD_FAILURE() << "accepted: " << words;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  const auto kUnsupported = ExitCode::kUnsupported, kConfig = ExitCode::kConfig;
  refused([](auto& a, auto&) { a.noise = "after_sum"; }, kUnsupported, "every rank knows the noise");
  refused([](auto& a, auto&) { a.mode = "plaintext"; }, kUnsupported, "mode = plaintext");
  refused([](auto& a, auto&) { a.mode = "plaintext", a.noise = "after_sum"; }, kUnsupported,
          "every rank knows the noise");
  refused([](auto& a, auto&) { a.colluding_ranks = 4; }, kUnsupported, "at most ranks - 1");
  refused([](auto& a, auto&) { a.colluding_ranks = -1; }, kUnsupported, "at most ranks - 1");
  refused([](auto& a, auto&) { a.ranks = 0; }, kConfig, "aggregation.ranks is missing");
  refused([](auto&, auto& p) { p.generator = "philox"; }, kUnsupported, "chacha20");
  refused([](auto&, auto& p) { p.enabled = false; }, kUnsupported, "floating-point");
  refused([](auto& a, auto&) { a.lane_bits = 20; }, kConfig, "16, 21 or 32");
  refused([](auto& a, auto& p) { a.lane_bits = 16, p.noise_multiplier = 5000; }, kConfig, "lane_bits");
  refused([](auto& a, auto& p) { a.grid_bits = 1, p.noise_multiplier = 0.01; }, kUnsupported,
          "less than 4 grid units");
  refused([](auto& a, auto&) { a.overflow_probability = 0; }, kConfig, "overflow_probability");
  refused([](auto& a, auto&) { a.mode = "float"; }, kConfig, "plaintext or masked");
}

// Of a delta so small that what pays for draws beyond the room of a step shows.
TEST(ConstantWork, CalibratesNoiseForWhatTheReportedEpsilonCharges) {
  PrivacyConfig privacy = given_noise();
  privacy.noise_multiplier.reset();
  privacy.target_epsilon = 3;
  privacy.target_delta = 1e-15;
  for (const AggregationConfig& aggregation : {AggregationConfig{}, shares_of(4, 1)}) {
    const PrivacyPlan plain = plan_of(aggregation, privacy),
                      constant = constant_plan_of(aggregation, privacy);
    EXPECT_EQ(plain.draw_overrun(), 0);
    EXPECT_EQ(constant.draw_overrun(), 0x1p-60);
    EXPECT_NE(plain.digest(), constant.digest());
    EXPECT_GT(constant.noise_multiplier(), plain.noise_multiplier() * 1.001);
    const double epsilon = constant.epsilon_of(constant.event(), 30).epsilon;
    EXPECT_LE(epsilon, 3);
    EXPECT_GT(epsilon, 2.99);
    EXPECT_GT(epsilon, accounting::epsilon_of(constant.event(), 30, 1e-15).epsilon);
    EXPECT_GE(constant.allowed_charges(), 30);
    EXPECT_LE(constant.epsilon_of(constant.event(), constant.allowed_charges()).epsilon, 3);
    EXPECT_EQ(PrivacyPlan::from_json(constant.to_json()).digest(), constant.digest());
  }
  privacy.target_delta = 5e-16;
  try {
    constant_plan_of({}, privacy);
    ADD_FAILURE() << "nothing is left of delta";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("nothing is left"), std::string::npos) << error.what();
  }
}

std::string insider_refusal(const PrivacyPlan& plan, const RunFacts& facts) {
  const Claims claims = claims_of(plan, facts);
  EXPECT_EQ(claims.insiders.event.has_value(), claims.insiders.refusal.empty());
  return claims.insiders.refusal;
}

TEST(Claims, AgainstRanksNeedSharesMasksConstantWorkAndSecretDraws) {
  EXPECT_EQ(insider_refusal(constant_plan_of(shares_of(4, 1)), {}), "");
  const auto refused = [](const PrivacyPlan& plan, const std::string& words, const RunFacts& facts = {}) {
    const std::string refusal = insider_refusal(plan, facts);
    EXPECT_NE(refusal.find(words), std::string::npos) << refusal;
  };
  refused(constant_plan_of({}), "every rank knows the noise");
  refused(constant_plan_of({.mode = "masked"}), "every rank knows the noise");
  refused(constant_plan_of({.noise = "shares", .ranks = 4}), "mode = plaintext");
  refused(constant_plan_of(shares_of(4, 0)), "colluding_ranks = 0");
  refused(plan_of(shares_of(4, 1)), "constant_step_slots");
  refused(constant_plan_of(shares_of(4, 1)), "--insecure-seed", {.shared_sampling_key = true});
  refused(constant_plan_of(shares_of(4, 1)), "--debug-nonprivate", {.raw_values_shown = true});
}

// Who sees messages sees when they are sent, too.
TEST(Claims, AgainstTheNetworkNeedMasksSharesAndConstantWork) {
  const auto claimed = [](const PrivacyPlan& plan) { return claims_of(plan, {}).network.event.has_value(); };
  EXPECT_TRUE(claimed(constant_plan_of(shares_of(4, 0))));
  EXPECT_TRUE(claimed(constant_plan_of(shares_of(4, 1))));
  EXPECT_FALSE(claimed(plan_of(shares_of(4, 0))));
  EXPECT_FALSE(claimed(constant_plan_of({})));
  EXPECT_FALSE(claimed(constant_plan_of({.mode = "masked"})));
  EXPECT_FALSE(claimed(constant_plan_of({.noise = "shares", .ranks = 4})));
}

TEST(Claims, OfOutsidersHoldForAllNoiseAndForNoRunThatShowsRawValues) {
  const PrivacyPlan plan = plan_of(shares_of(4, 1));
  const auto event = std::get<accounting::NoiseSharesEvent>(*claims_of(plan, {}).outsiders.event);
  EXPECT_EQ(event.colluding_ranks, 0);
  EXPECT_FALSE(claims_of(plan, {.raw_values_shown = true}).outsiders.event);
  EXPECT_FALSE(claims_of(plan, {.shared_sampling_key = true}).outsiders.event);
  PrivacyConfig without = given_noise();
  without.enabled = false;
  EXPECT_FALSE(claims_of(plan_of({}, without), {}).outsiders.event);
}

TEST(Claims, AJobThatCannotKeepThemIsRefusedBeforeItRuns) {
  const auto refused = [](const std::function<void(Config&)>& change, ExitCode code, const std::string& words,
                          bool dry_run = false) {
    Config config;
    config.privacy = given_noise();
    config.aggregation = {.noise = "shares"};
    change(config);
    try {
      check_job(config, /*ranks=*/3, dry_run);
      EXPECT_EQ(words, "") << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      EXPECT_NE(words, "") << error.what();
    }
  };
  const auto kUnsupported = ExitCode::kUnsupported, kConfig = ExitCode::kConfig;
  refused([](Config&) {}, kConfig, "");
  refused([](Config& c) { c.aggregation.ranks = 3; }, kConfig, "");
  refused([](Config& c) { c.aggregation.ranks = 4; }, kConfig, "3 ranks were started");
  refused([](Config& c) { c.aggregation.ranks = 4; }, kConfig, "", /*dry_run=*/true);
  refused([](Config& c) { c.aggregation.colluding_ranks = 1; }, kUnsupported, "constant_step_slots = true");
  const auto constant = [](Config& c) { c.runtime.constant_step_slots = true; };
  refused([&](Config& c) { constant(c), c.aggregation.colluding_ranks = 1; }, kConfig, "");
  refused([&](Config& c) { constant(c), c.privacy.dataset_size.reset(); }, kConfig, "privacy.dataset_size");
  refused([&](Config& c) { constant(c), c.privacy.enabled = false; }, kConfig, "privacy.enabled");
  refused([&](Config& c) { constant(c), c.runtime.microbatch_size = 2; }, kConfig, "microbatch_size = 2");
  refused([&](Config& c) { constant(c), c.runtime.microbatch_size = 1; }, kConfig, "");
  const auto gram = [&](Config& c) { constant(c), c.runtime.norm_method = "gram"; };
  for (const std::string numerics : {"fp32", "auto"}) {  // what is measured must not decide about a refusal
    refused([&](Config& c) { gram(c), c.privacy.numerics = numerics; }, kConfig, "norm_method = gram");
    refused([&](Config& c) { constant(c), c.privacy.numerics = numerics; }, kConfig, "");
  }
  const auto masked = [](Config& c) { c.aggregation.mode = "masked"; };
  refused(masked, kConfig, "needs aggregation.allow_list and aggregation.identity");
  refused([&](Config& c) { masked(c), c.aggregation.allow_list = "list"; }, kConfig, "aggregation.identity");
  refused(masked, kConfig, "", /*dry_run=*/true);
  refused([&](Config& c) { masked(c), c.aggregation.allow_list = "list", c.aggregation.identity = "key"; },
          kConfig, "");
}

// What would do nothing, or cost noise for nothing; a baseline is refused what the private run is.
TEST(Claims, AJobWithSettingsOfNormsThatWouldDoNothingIsRefused) {
  const auto refusal = [](const std::string& numerics, const std::string& recompute,
                          const std::string& norm_method, int64_t norm_memory_mib) -> std::string {
    std::string words[2];
    for (const bool enabled : {true, false}) {
      Config config;
      config.privacy = given_noise();
      config.privacy.numerics = numerics;
      config.privacy.enabled = enabled;
      config.runtime.recompute = recompute;
      config.runtime.norm_method = norm_method;
      config.runtime.norm_memory_mib = norm_memory_mib;
      try {
        check_job(config, /*ranks=*/1, /*dry_run=*/false);
      } catch (const ConfigError& error) {
        words[enabled] = error.what();
      }
    }
    EXPECT_EQ(words[0], words[1]);
    return words[1];
  };
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
  };
  for (const std::string method : {"gram", "direct", "materialise"}) {
    expect(refusal("exact", "none", method, 0), "runtime.norm_method = " + method);
    expect(refusal("auto", "layer", method, 0), "recompute = layer");
    expect(refusal("fp32", "none", method, 5), "take one of them out");
    for (const std::string numerics : {"fp32", "auto"}) EXPECT_EQ(refusal(numerics, "none", method, 0), "");
  }
  expect(refusal("exact", "none", "auto", 5), "runtime.norm_memory_mib = 5");
  expect(refusal("auto", "layer", "auto", 5), "runtime.norm_memory_mib = 5");
  expect(refusal("fp32", "layer", "auto", 0), "set numerics = exact or recompute = none");
  for (const std::string numerics : {"fp32", "auto"}) EXPECT_EQ(refusal(numerics, "none", "auto", 5), "");
  for (const std::string numerics : {"exact", "auto"}) EXPECT_EQ(refusal(numerics, "layer", "auto", 0), "");
}

TEST(Claims, StatementSaysBothEpsilonsAndAgainstWhomTheyHold) {
  const auto contains = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in:\n" << text;
  };
  const PrivacyPlan plan = plan_of(shares_of(4, 1));
  const std::string text = constant_plan_of(shares_of(4, 1)).statement();
  contains(text, "\n  epsilon");
  contains(text, "\n    to 1 rank ");
  contains(text, "shares: each of 4 ranks");
  contains(text, "The epsilon to 1 rank holds");
  contains(text, "reads what the ranks send");
  contains(text, "a rank that lies");
  EXPECT_EQ(text.find("timing"), std::string::npos);
  // Constant work: what it rests on, what of delta pays for it, and what it leaves.
  contains(text, "provided that");
  contains(text, "dataset_size = " + plan.to_json().at("dataset_size").dump() + " is not exceeded");
  contains(text, "pays for draws beyond the room of a step");
  contains(text, "caches");
  EXPECT_EQ(plan.statement().find("provided that"), std::string::npos);
  const std::string open = plan.statement();
  contains(open, "no claim: runtime.constant_step_slots = false");
  contains(open, "timing");
  EXPECT_EQ(open.find("to 1 rank "), std::string::npos);
  contains(plan.statement({.raw_values_shown = true}), "none: --debug-nonprivate");
  contains(plan_of({.noise = "shares", .ranks = 4}).statement(), "from the network: mode = plaintext");
}

}  // namespace
}  // namespace dpfa::plan
