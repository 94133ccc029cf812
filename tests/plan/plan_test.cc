#include "src/plan/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "accounting/accountant.h"
#include "src/base/error.h"
#include "tests/plan/given_noise.h"

namespace dpfa::plan {
namespace {

PrivacyConfig given_target() {
  PrivacyConfig privacy = given_noise();
  privacy.noise_multiplier.reset();
  privacy.target_epsilon = 3;
  privacy.reserve_steps = 7;
  return privacy;
}

PrivacyPlan plan_of(const PrivacyConfig& privacy, int64_t parameters = kParameters) {
  return PrivacyPlan::derive(privacy, AggregationConfig{}, parameters);
}

std::string config_error_of(const std::function<void(PrivacyConfig&)>& change,
                            int64_t parameters = kParameters) {
  PrivacyConfig privacy = given_noise();
  change(privacy);
  try {
    plan_of(privacy, parameters);
  } catch (const ConfigError& error) {
    return error.what();
  }
  ADD_FAILURE() << "the plan was accepted";
  return {};
}

void expect_contains(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in:\n" << text;
  }
}

// Oracle in long double, from the sentence of the header and not from the code. C far from 1 tells a noise
// that forgot C, or took it twice, from the right one.
TEST(Plan, NoiseStddevIsNoiseMultiplierTimesSensitivity) {
  for (const double norm : {0.1, 1.0, 10.0}) {
    for (const std::string numerics : {"exact", "fp32"}) {
      PrivacyConfig privacy = given_noise();
      privacy.max_grad_norm = norm;
      privacy.numerics = numerics;
      const PrivacyPlan plan = plan_of(privacy);
      long double grid = 1;
      while (grid > static_cast<long double>(norm) / (1 << 22)) grid /= 2;
      long double slack = sqrtl(kParameters) / 2 * grid / norm + 1.0L / (1 << 20);
      if (numerics == "fp32") slack += 1.0L / (1 << 8);
      EXPECT_EQ(plan.grid(), static_cast<double>(grid));
      EXPECT_NEAR(plan.slack(), static_cast<double>(slack), 1e-15);
      EXPECT_NEAR(plan.sensitivity() / (norm * (1 + slack)), 1, 1e-14L);
      EXPECT_NEAR(plan.noise_stddev() / (1.1L * norm * (1 + slack)), 1, 1e-14L);
    }
  }
}

TEST(Plan, GridIsTheLargestPowerOfTwoNotAboveItsBound) {
  for (const double norm : {1e-12, 0.1, 0.5, std::nextafter(1.0, 0.0), 1.0, 1.5, 2.0, 3.7, 1e12}) {
    PrivacyConfig privacy = given_noise();
    privacy.max_grad_norm = norm;
    const PrivacyPlan plan = plan_of(privacy);
    const double bound = std::ldexp(norm, -22);
    EXPECT_LE(plan.grid(), bound);
    EXPECT_GT(2 * plan.grid(), bound);
    int exponent = 0;
    EXPECT_EQ(std::frexp(plan.grid(), &exponent), 0.5) << "not a power of two";
    EXPECT_EQ(exponent - 1, plan.grid_exponent());
  }
}

// The worst contribution: L2 norm C, and every coordinate rounds away from zero by half a unit.
TEST(Plan, ARoundedContributionStaysWithinTheSensitivity) {
  for (const int64_t parameters : {1, 10, 4096, 1000000}) {
    const PrivacyPlan plan = plan_of(given_noise(), parameters);
    const double coordinate = plan.max_grad_norm() / std::sqrt(static_cast<double>(parameters));
    const double units = std::floor(coordinate / plan.grid()) + 0.5;
    const double moved = (units + 0.5) / units;
    EXPECT_LE(plan.max_grad_norm() * moved * (1 + std::ldexp(1.0, -23)), plan.sensitivity()) << parameters;
  }
}

TEST(Plan, DigestIgnoresRuntimeConfiguration) {
  const std::vector<Override> base = {{"privacy.noise_multiplier", "1.1"},
                                      {"privacy.target_delta", "1e-5"},
                                      {"privacy.sample_rate", "0.01"},
                                      {"privacy.dataset_size", "5000"},
                                      {"privacy.steps", "100"}};
  std::vector<Override> other = base;
  for (const Override& runtime : std::vector<Override>{{"runtime.microbatch_size", "3"},
                                                       {"runtime.compute", "bf16"},
                                                       {"runtime.threads", "2"},
                                                       {"runtime.expected_world_size", "4"},
                                                       {"runtime.watchdog_seconds", "0"},
                                                       {"optimizer.learning_rate", "0.5"},
                                                       {"train.checkpoint_every", "1"},
                                                       {"output.dir", "elsewhere"},
                                                       {"model.dropout", "0.1"}}) {
    other.push_back(runtime);
  }
  const Config a = load_config({}, base), b = load_config({}, other);
  const auto digest = [](const Config& c) {
    return PrivacyPlan::derive(c.privacy, c.aggregation, kParameters).digest();
  };
  EXPECT_NE(to_ini(a), to_ini(b));
  EXPECT_EQ(digest(a), digest(b));
  EXPECT_EQ(digest(a).size(), 64u);
}

TEST(Plan, DigestDependsOnEveryPrivacyKey) {
  const std::vector<std::function<void(PrivacyConfig&)>> changes = {
      [](PrivacyConfig&) {},
      [](PrivacyConfig& p) { p.enabled = false; },
      [](PrivacyConfig& p) { p.noise_multiplier = std::nextafter(1.1, 2.0); },
      [](PrivacyConfig& p) { p.target_delta = 1e-6; },
      [](PrivacyConfig& p) { p.max_grad_norm = std::nextafter(1.0, 2.0); },
      [](PrivacyConfig& p) { p.expected_batch_size = 65; },
      [](PrivacyConfig& p) { p.dataset_size = 2001; },
      [](PrivacyConfig& p) { p.steps = 31; },
      [](PrivacyConfig& p) { p.reserve_steps = 1; },
      [](PrivacyConfig& p) { p.generator = "philox"; },
      [](PrivacyConfig& p) { p.numerics = "fp32"; },
      [](PrivacyConfig& p) { p.loss = "token_sum"; },
      [](PrivacyConfig& p) { p.clipping = "automatic"; },
  };
  std::set<std::string> digests;
  for (const auto& change : changes) {
    PrivacyConfig privacy = given_noise();
    change(privacy);
    digests.insert(plan_of(privacy).digest());
  }
  digests.insert(plan_of(given_noise(), kParameters + 1).digest());
  EXPECT_EQ(digests.size(), changes.size() + 1);
}

TEST(Plan, AnyTwoOfRateBatchAndSizeGiveTheThird) {
  EXPECT_EQ(plan_of(given_noise()).sample_rate(), 64.0 / 2000.0);
  EXPECT_EQ(plan_of(given_noise()).expected_batch_size(), 64);
  PrivacyConfig privacy = given_noise();
  privacy.expected_batch_size.reset();
  privacy.sample_rate = 0.125;
  EXPECT_EQ(plan_of(privacy).expected_batch_size(), 250);
  privacy.expected_batch_size = 250;
  EXPECT_EQ(plan_of(privacy).sample_rate(), 0.125);
  privacy.dataset_size.reset();
  EXPECT_EQ(plan_of(privacy).expected_batch_size(), 250);
}

TEST(Plan, MissingOrContradictingKeysAreRefusedByName) {
  expect_contains(config_error_of([](auto& p) { p.target_epsilon = 3; }),
                  {"privacy.noise_multiplier", "privacy.target_epsilon", "both"});
  expect_contains(config_error_of([](auto& p) { p.noise_multiplier.reset(); }), {"privacy.noise_multiplier"});
  expect_contains(config_error_of([](auto& p) { p.steps = 0; }), {"privacy.steps"});
  expect_contains(config_error_of([](auto& p) { p.dataset_size.reset(); }), {"privacy.sample_rate"});
  expect_contains(config_error_of([](auto& p) { p.expected_batch_size.reset(); }), {"privacy.sample_rate"});
  expect_contains(config_error_of([](auto& p) {
                    p.dataset_size.reset();
                    p.expected_batch_size.reset();
                    p.sample_rate = 0.1;
                  }),
                  {"privacy.expected_batch_size"});
  expect_contains(config_error_of([](auto& p) { p.sample_rate = 0.04; }), {"contradicts", "80", "64"});
  expect_contains(config_error_of([](auto& p) { p.expected_batch_size = 2001; }), {"(0, 1]"});
}

TEST(Plan, NumbersOutOfRangeAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double delta : {0.0, -1e-5, 0.2, 1.0, nan}) {
    expect_contains(config_error_of([&](auto& p) { p.target_delta = delta; }), {"privacy.target_delta"});
  }
  for (const double norm : {0.0, -1.0, nan, 1e300}) {
    expect_contains(config_error_of([&](auto& p) { p.max_grad_norm = norm; }), {"privacy.max_grad_norm"});
  }
  for (const double sigma : {0.0, -1.0, nan}) {
    expect_contains(config_error_of([&](auto& p) { p.noise_multiplier = sigma; }),
                    {"privacy.noise_multiplier"});
  }
  for (const double rate : {0.0, 1.01, nan}) {
    config_error_of([&](auto& p) {
      p.sample_rate = rate;
      p.dataset_size.reset();
    });
  }
  config_error_of([](auto& p) { p.steps = -1; });
  config_error_of([](auto& p) { p.reserve_steps = -1; });
  config_error_of([](auto& p) { p.dataset_size = 0; });
  config_error_of([](auto& p) { p.numerics = "auto"; });
  expect_contains(config_error_of([](auto&) {}, 0), {"no trainable parameter"});
}

TEST(Plan, WhatHasNoImplementationIsUnsupportedAndSaysSo) {
  const std::vector<std::function<void(PrivacyConfig&)>> changes = {
      [](auto& p) { p.clipping = "per_layer"; },
      [](auto& p) { p.privacy_unit = "user"; },
      [](auto& p) { p.neighboring_relation = "replace_one"; },
      [](auto& p) { p.loss = "batch_mean"; },
      [](auto& p) { p.generator = "mt19937"; },
      [](auto& p) { p.numerics = "bf16"; },
  };
  for (const bool enabled : {true, false}) {
    for (const auto& change : changes) {
      PrivacyConfig privacy = given_noise();
      privacy.enabled = enabled;
      change(privacy);
      try {
        plan_of(privacy);
        ADD_FAILURE() << "accepted";
      } catch (const Unsupported& error) {
        expect_contains(error.what(), {"not in this build"});
      }
    }
  }
}

TEST(Plan, CalibratedNoiseKeepsAllChargesWithinTheTarget) {
  const PrivacyPlan plan = plan_of(given_target());
  EXPECT_EQ(plan.max_charges(), 37);
  const auto epsilon = [&](int64_t n) { return accounting::epsilon_of(plan.event(), n, 1e-5).epsilon; };
  EXPECT_LE(epsilon(plan.max_charges()), 3);
  EXPECT_GT(epsilon(plan.max_charges()), 3 * 0.999) << "the target is not used";
  EXPECT_GE(plan.allowed_charges(), plan.max_charges());
  EXPECT_LE(epsilon(plan.allowed_charges()), 3);
  EXPECT_GT(epsilon(plan.allowed_charges() + 1), 3);
  EXPECT_EQ(plan.target_epsilon(), 3);
}

TEST(Plan, GivenNoiseAllowsThePlannedCharges) {
  PrivacyConfig privacy = given_noise();
  privacy.reserve_steps = 5;
  const PrivacyPlan plan = plan_of(privacy);
  EXPECT_EQ(plan.allowed_charges(), 35);
  EXPECT_EQ(plan.noise_multiplier(), 1.1);
  EXPECT_TRUE(std::isinf(plan.target_epsilon()));
}

TEST(Plan, WithoutPrivacyThereIsNoNoiseAndNoEpsilon) {
  for (PrivacyConfig privacy : {given_noise(), given_target(), PrivacyConfig{}}) {
    privacy.enabled = false;
    privacy.steps = 30;
    privacy.dataset_size = 2000;
    privacy.expected_batch_size = 64;
    const PrivacyPlan plan = plan_of(privacy);
    EXPECT_FALSE(plan.is_private());
    EXPECT_EQ(plan.noise_stddev(), 0);
    EXPECT_EQ(plan.noise_multiplier(), 0);
    EXPECT_EQ(plan.expected_batch_size(), 64);
    EXPECT_EQ(plan.sample_rate(), 0.032);
    EXPECT_THROW(plan.event(), InternalError);
    EXPECT_THROW(plan.target_epsilon(), InternalError);
    EXPECT_EQ(plan.to_json().dump().find("epsilon"), std::string::npos);
    expect_contains(plan.statement(), {"NOT PRIVATE"});
    EXPECT_EQ(plan.statement().find("epsilon"), std::string::npos);
    ASSERT_EQ(plan.warnings().size(), 1u);
    expect_contains(plan.warnings()[0], {"NOT PRIVATE"});
  }
}

TEST(Plan, JsonRoundTripIsBitExact) {
  PrivacyConfig odd = given_target();
  odd.max_grad_norm = 0.1 + 0.2;
  odd.target_delta = 1e-5 / 3;
  odd.dataset_size = 2017;
  PrivacyConfig without = given_noise();
  without.enabled = false;
  for (const PrivacyConfig& privacy : {given_noise(), given_target(), odd, without}) {
    const PrivacyPlan plan = plan_of(privacy);
    const PrivacyPlan again = PrivacyPlan::from_json(nlohmann::json::parse(plan.to_json().dump()));
    EXPECT_EQ(again.digest(), plan.digest());
    EXPECT_EQ(again.to_json(), plan.to_json());
    EXPECT_EQ(again.noise_stddev(), plan.noise_stddev());
    EXPECT_EQ(again.sample_rate(), plan.sample_rate());
    EXPECT_EQ(again.statement(), plan.statement());
  }
}

TEST(Plan, AJsonPlanThatDoesNotFitItselfIsRefused) {
  const nlohmann::json fields = plan_of(given_target()).to_json();
  for (const auto& [key, value] : fields.items()) {
    nlohmann::json removed = fields;
    removed.erase(key);
    EXPECT_THROW(PrivacyPlan::from_json(removed), Error) << key;
  }
  for (const std::string key : {"noise_stddev", "sensitivity", "slack", "grid_exponent"}) {
    nlohmann::json altered = fields;
    altered[key] = fields.at(key).get<double>() * 1.5;
    EXPECT_THROW(PrivacyPlan::from_json(altered), StateError) << key;
  }
  nlohmann::json altered = fields;
  altered["noise_multiplier"] = fields.at("noise_multiplier").get<double>() / 2;
  EXPECT_THROW(PrivacyPlan::from_json(altered), StateError);
  altered = fields;
  altered["sample_rate"] = "0.1";
  EXPECT_THROW(PrivacyPlan::from_json(altered), StateError);
  altered = fields;
  altered["surplus"] = 1;
  EXPECT_THROW(PrivacyPlan::from_json(altered), StateError);
  EXPECT_THROW(PrivacyPlan::from_json(nlohmann::json()), StateError);
}

TEST(Plan, WarningsNameALargeDeltaAndAGeneratorWithoutCryptographicClaim) {
  PrivacyConfig privacy = given_noise();
  EXPECT_TRUE(plan_of(privacy).warnings().empty());
  privacy.target_delta = 1e-3;
  ASSERT_EQ(plan_of(privacy).warnings().size(), 1u);
  expect_contains(plan_of(privacy).warnings()[0], {"target_delta", "1 / dataset_size"});
  privacy.generator = "philox";
  ASSERT_EQ(plan_of(privacy).warnings().size(), 2u);
  expect_contains(plan_of(privacy).warnings()[1], {"philox", "cryptographic"});
}

TEST(Plan, StatementNamesEveryNumberAndWhoIsProtectedFromWhom) {
  PrivacyConfig privacy = given_noise();
  privacy.reserve_steps = 5;
  const std::string text = plan_of(privacy).statement();
  expect_contains(text, {"privacy unit",
                         "one record",
                         "add_or_remove_one",
                         "Poisson",
                         "0.032",
                         "64 records",
                         "noise_multiplier",
                         "1.1",
                         "max_grad_norm",
                         "sensitivity",
                         "noise stddev",
                         "grid 2^-22",
                         "30 (+ 5",
                         "epsilon",
                         "at delta = 1e-05",
                         "after 30 charged steps",
                         "after 35 charged steps",
                         "accountant",
                         "exact",
                         "chacha20",
                         "after_sum",
                         "ranks and network are trusted",
                         "Not protected",
                         "timing",
                         "several records",
                         "other runs"});
}

// The number that people quote is rounded: never below the bound.
TEST(Plan, StatementRoundsEpsilonUp) {
  for (const double sigma : {0.7, 0.9, 1.1, 1.3, 2.0, 5.0, 50.0}) {
    PrivacyConfig privacy = given_noise();
    privacy.noise_multiplier = sigma;
    const PrivacyPlan plan = plan_of(privacy);
    const std::string text = plan.statement();
    const size_t line = text.find("\n  epsilon");
    ASSERT_NE(line, std::string::npos);
    const double shown = std::stod(text.substr(text.find_first_of("0123456789", line)));
    const double epsilon = accounting::epsilon_of(plan.event(), plan.steps(), plan.target_delta()).epsilon;
    EXPECT_GE(shown, epsilon);
    EXPECT_LE(shown, epsilon * 1.0011);
  }
}

}  // namespace
}  // namespace dpfa::plan
