// The evaluation of accounting cases: published values, checks of every kind, and refusal instead of
// guessing.
#include "accounting/cases.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <set>

#include "accounting/finite_loss.h"
#include "src/base/error.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;

json make_case(const std::string& mechanism, const std::string& quantity, const json& params,
               const json& expected, double tolerance = 1e-9, const std::string& kind = "rel",
               const std::string& check = "near") {
  return {{"id", mechanism + "/" + quantity},
          {"mechanism", mechanism},
          {"quantity", quantity},
          {"params", params},
          {"expected", expected},
          {"tolerance", tolerance},
          {"tolerance_kind", kind},
          {"check", check}};
}

void expect_pass(const json& test_case) {
  const CaseResult result = evaluate_case(test_case);
  EXPECT_TRUE(result.pass) << test_case.dump() << "\n" << result.value << " " << result.message;
}

void expect_not_understood(const json& test_case) {
  const CaseResult result = evaluate_case(test_case);
  EXPECT_TRUE(result.value.is_null()) << test_case.dump();
  EXPECT_FALSE(result.pass);
  EXPECT_NE(result.message.find("not understood"), std::string::npos);
}

TEST(Cases, NoPublishedCaseFails) {
  const char* shared = std::getenv("DPFA_SHARED");
  const std::filesystem::path file =
      std::filesystem::path(shared != nullptr ? shared : "") / "golden/accounting_cases.json";
  if (!std::filesystem::exists(file)) {
    GTEST_SKIP() << "not run: there is no " << file << " (DPFA_SHARED names the folder)";
  }
  int understood = 0;
  for (const json& test_case : read_cases(file)) {
    const CaseResult result = evaluate_case(test_case);
    if (result.value.is_null()) continue;
    ++understood;
    EXPECT_TRUE(result.pass) << result.id << ": " << result.value << " expected " << result.expected;
  }
  EXPECT_GE(understood, 19);
}

TEST(Cases, ValuesSummedAndIntegratedFromTheLawsAreMetForEveryQuantity) {
  const char* source = std::getenv("DPFA_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "DPFA_SOURCE_DIR names the source folder";
  std::set<std::string> covered;
  for (const json& test_case :
       read_cases(std::filesystem::path(source) / "tests/accounting/case_values.json")) {
    expect_pass(test_case);
    covered.insert(test_case.at("mechanism").get<std::string>() + "/" +
                   test_case.at("quantity").get<std::string>());
  }
  EXPECT_GE(covered.size(), 55u);
}

TEST(Cases, ValuesOfOtherImplementationsAreMet) {
  // Randomized response against a uniform report, p = 0.3 of 10 values (Google's accountant, 1e-4).
  expect_pass(make_case(
      "randomized_response", "rdp",
      {{"noise_parameter", 0.3}, {"num_buckets", 10}, {"order", 2.5}, {"neighboring", "replace_special"}},
      1.7801182478869704, 1e-4));
  expect_pass(make_case(
      "randomized_response", "rdp",
      {{"noise_parameter", 0.3}, {"num_buckets", 10}, {"order", "inf"}, {"neighboring", "replace_one"}},
      3.1918471524802814, 1e-4));
  // Ten of randomized response at delta 0: ten times log 3.
  expect_pass(make_case("randomized_response_self_composed", "epsilon",
                        {{"noise_parameter", 0.5},
                         {"num_buckets", 2},
                         {"count", 10},
                         {"delta", 0},
                         {"neighboring", "replace_one"}},
                        10.986122886681096));
  expect_pass(
      make_case("gaussian", "sigma_classic_dwork_roth", {{"epsilon", 1}, {"delta", 1e-5}}, 4.844805, 1e-6));
  expect_pass(make_case("shuffled_ablq_one_epoch", "delta_lower_bound",
                        {{"sigma", 0.4}, {"batches", 10000}, {"epsilon", 4}, {"adjacency", "remove"}},
                        0.22605, 1e-4));
  expect_pass(
      make_case("deterministic_batches_one_epoch", "delta", {{"sigma", 0.4}, {"epsilon", 4}}, 0.2438, 1e-3));
  expect_pass(
      make_case("participation", "max_participations", {{"n", 10}, {"min_sep", 3}}, 4, 0, "abs", "equal"));
  expect_pass(make_case("rdp_filter", "admitted_steps",
                        {{"order", 2}, {"rdp_budget", 2.5}, {"sigmas", {1, 1, 1}}}, 2, 0, "abs", "equal"));
}

TEST(Cases, CompositionOfDistinctPureMechanismsCountsEachOfThem) {
  expect_pass(
      make_case("pure_dp_composed", "epsilon", {{"epsilons", {0.5, 1.0, 0.25}}, {"delta", 0}}, 1.75, 1e-9));
  expect_pass(make_case("gaussian_composed", "rdp", {{"order", 2}, {"sigmas", {1, 2}}}, 1.25));
  expect_pass(make_case("zcdp_composed", "rdp",
                        {{"order", 3}, {"events", {{0.5, 0.1}, {0, 0.2}}}, {"fields", {"xi", "rho"}}}, 1.4));
  expect_pass(make_case(
      "poisson_subsampled_gaussian_composed", "epsilon_via_rdp",
      {{"orders", {8}},
       {"delta", 1e-5},
       {"events", {{0.01, 1.0, 30}, {0.01, 1.0, 20}}},
       {"fields", {"q", "sigma", "steps"}}},
      evaluate_case(make_case("poisson_subsampled_gaussian", "epsilon_via_rdp",
                              {{"orders", {8}}, {"delta", 1e-5}, {"q", 0.01}, {"sigma", 1}, {"steps", 50}},
                              0))
          .value));
}

TEST(Cases, FiniteLossesComposeToTheBinomialFormula) {
  // Kairouz, Oh and Viswanath: delta at (k - 2 i) epsilon as an explicit sum, k = 5, i = 1.
  const double e = 0.7;
  const double expected = (std::exp(5 * e) - std::exp(3 * e)) / std::pow(1 + std::exp(e), 5);
  EXPECT_NEAR(FiniteLoss::approximate_dp(e, 0).repeated(5).delta(3 * e), expected, 1e-15);
  EXPECT_NEAR(FiniteLoss::approximate_dp(e, 0).power(0.1), 0.1 * std::exp(e), 1e-15);
}

TEST(Cases, CalibratedScalesMeetTheirTargetAndOnePercentLessDoesNot) {
  const json target = {{"epsilon", 1}, {"delta", 1e-5}};
  json sampled = target, laplace = target, discrete = target;
  sampled.update({{"q", 0.8}, {"adjacency", "add"}, {"sensitivity", 2}});
  laplace.update({{"q", 0.2}, {"adjacency", "remove"}, {"sensitivity", 2}});
  discrete.update({{"q", 0.2}, {"adjacency", "remove"}, {"sensitivity", 3}});
  expect_pass(make_case("gaussian", "sigma", target, nullptr, 0, "abs", "calibration"));
  expect_pass(make_case("poisson_subsampled_gaussian", "sigma", sampled, nullptr, 0, "abs", "calibration"));
  expect_pass(make_case("poisson_subsampled_laplace", "b", laplace, nullptr, 0, "abs", "calibration"));
  expect_pass(
      make_case("poisson_subsampled_discrete_laplace", "a", discrete, nullptr, 0, "abs", "calibration"));
}

TEST(Cases, ChecksOfEveryKindAcceptAndRefuse) {
  const json params = {{"order", 2}, {"sigma", 1}};  // rdp is 1
  struct Row {
    const char* check;
    double expected, tolerance;
    bool pass;
  };
  for (const Row& row : std::vector<Row>{{"near", 1.1, 0.2, true},
                                         {"near", 1.3, 0.2, false},
                                         {"equal", 1, 0, true},
                                         {"equal", 1.0000001, 9, false},
                                         {"at_most", 0.9, 0.2, true},
                                         {"at_most", 0.7, 0.2, false},
                                         {"at_least", 1.1, 0.2, true},
                                         {"at_least", 1.3, 0.2, false},
                                         {"greater_than", 0.9, 0, true},
                                         {"greater_than", 1, 0, false},
                                         {"upper_bound_tight", 0.99, 0, true},
                                         {"upper_bound_tight", 1.01, 1e-3, false},
                                         {"upper_bound_tight", 0.97, 0, false}}) {
    const json test_case =
        make_case("gaussian", "rdp", params, row.expected, row.tolerance, "abs", row.check);
    EXPECT_EQ(evaluate_case(test_case).pass, row.pass) << test_case;
  }
  expect_pass(make_case("gaussian", "rdp", {{"order", "inf"}, {"sigma", 1}}, "inf"));
  EXPECT_EQ(evaluate_case(make_case("gaussian", "rdp", {{"order", "inf"}, {"sigma", 1}}, "inf")).value,
            "inf");
}

TEST(Cases, WhatIsNotUnderstoodIsSaidAndNeverFatal) {
  expect_not_understood(make_case("unheard_of", "rdp", {{"order", 2}}, 1));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 2}}, 1));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 2}, {"sigma", "one"}}, 1));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 0.5}, {"sigma", 1}}, 1));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 2}, {"sigma", 1}, {"q", 0.1}}, 1));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 2}, {"sigma", 1}}, 1, 0, "ulp"));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 2}, {"sigma", 1}}, 1, 0, "abs", "roughly"));
  expect_not_understood(make_case("gaussian", "rdp", {{"order", 2}, {"sigma", 1}}, {{"pmf", 1}}));
  expect_not_understood(
      make_case("poisson_subsampled_gaussian", "delta",
                {{"q", 0.1}, {"sigma", 1}, {"steps", 1}, {"epsilon", 1}, {"adjacency", "sideways"}}, 1));
  for (const json& odd : {json(), json(3), json::array(), json::object(), json{{"mechanism", 7}}})
    expect_not_understood(odd);
}

TEST(Cases, FileThatIsNoArrayIsAnIoError) {
  dpfa::testing::TemporaryFolder folder;
  dpfa::testing::write_text(folder / "cases.json", "{\"id\": 1}");
  EXPECT_THROW(read_cases(folder / "cases.json"), IoError);
  dpfa::testing::write_text(folder / "cases.json", "[{");
  EXPECT_THROW(read_cases(folder / "cases.json"), IoError);
  EXPECT_THROW(read_cases(folder / "absent.json"), IoError);
}

double value_of(const std::string& mechanism, const std::string& quantity, const json& params) {
  const CaseResult result = evaluate_case(make_case(mechanism, quantity, params, 0.0));
  EXPECT_TRUE(result.value.is_number()) << mechanism << "/" << quantity << ": " << result.message;
  return result.value.is_number() ? result.value.get<double>() : NAN;
}

TEST(CaseLosses, OneLaplaceHasItsClosedForm) {
  expect_pass(
      make_case("laplace_composed", "delta", {{"b", {1.0}}, {"epsilon", 0.5}}, -std::expm1(-0.25), 1e-3));
  expect_pass(make_case("laplace_composed", "epsilon", {{"b", {2.0, 4.0}}, {"delta", 0.0}}, 0.75, 1e-6));
}

TEST(CaseLosses, MechanismsThatAreOneAgree) {
  const double sampled = value_of("poisson_subsampled_gaussian", "epsilon",
                                  {{"q", 0.1}, {"sigma", 1.0}, {"steps", 10}, {"delta", 1e-5}});
  const json mixture = {{"standard_deviation", 1.0},
                        {"sensitivities", {0.0, 1.0}},
                        {"sampling_probs", {0.9, 0.1}},
                        {"count", 10}};
  EXPECT_NEAR(value_of("mixture_of_gaussians_composed", "epsilon", {{"events", {mixture}}, {"delta", 1e-5}}),
              sampled, 2e-3 * sampled);
  const json truncated = {1000, 0.1, 1000, 1.0, 10};  // a batch that nothing overflows
  EXPECT_NEAR(value_of("truncated_poisson_subsampled_gaussian_composed", "epsilon",
                       {{"events", {truncated}}, {"delta", 1e-5}}),
              sampled, 2e-3 * sampled);
  EXPECT_NEAR(
      value_of(
          "poisson_subsampled_gaussian_composed", "epsilon",
          {{"events", {{0.1, 1.0, 4}, {0.1, 1.0, 6}}}, {"fields", {"q", "sigma", "steps"}}, {"delta", 1e-5}}),
      sampled, 2e-3 * sampled);
}

TEST(CaseLosses, DiscretisedGaussianKeepsItsMassesAndItsDeltasOnTheGrid) {
  const json params = {{"sigma", 1.0}, {"discretization", 1.0}, {"log_mass_truncation", -50}};
  const json any = {{"pmf", json::object()}, {"infinity_mass", 0.0}};
  const double within = std::erf(0.5 / std::sqrt(2.0));  // P[0 < loss <= 1], and delta(0)
  const json buckets = evaluate_case(make_case("gaussian", "pld_pmf_privacy_buckets", params, any)).value;
  EXPECT_NEAR(buckets.at("pmf").at("1").get<double>(), within, 1e-12);
  EXPECT_NEAR(buckets.at("infinity_mass").get<double>(), 0.5 * std::exp(-50), 1e-28);
  const json dots = evaluate_case(make_case("gaussian", "pld_pmf_connect_dots", params, any)).value;
  double delta = dots.at("infinity_mass"), total = delta;
  for (const auto& [index, mass] : dots.at("pmf").items()) {
    total += mass.get<double>();
    if (std::stoi(index) > 0) delta -= mass.get<double>() * std::expm1(-std::stoi(index));
  }
  EXPECT_NEAR(total, 1, 1e-12);
  EXPECT_NEAR(delta, within, 1e-12);
}

TEST(CaseLosses, GivenGridsAreAboveTheExactValueAndBucketsAboveDots) {
  const json run = {{"q", 0.02}, {"sigma", 1.1}, {"steps", 300}, {"delta", 1e-5}};
  json grid = run;
  grid["discretization"] = 1e-3;
  const double exact = value_of("poisson_subsampled_gaussian", "epsilon", run);
  const double dots = value_of("poisson_subsampled_gaussian", "epsilon_pld_connect_dots", grid);
  const double buckets = value_of("poisson_subsampled_gaussian", "epsilon_pld_privacy_buckets", grid);
  EXPECT_GE(dots, exact * (1 - 1e-3));
  EXPECT_GT(buckets, dots);
  EXPECT_LE(buckets, exact + 300 * 1e-3);
  json target = run;
  target.erase("sigma");
  target["epsilon"] = exact;
  EXPECT_NEAR(value_of("poisson_subsampled_gaussian", "sigma_prv", target), 1.1, 2e-3);
}

}  // namespace
}  // namespace dpfa::accounting
