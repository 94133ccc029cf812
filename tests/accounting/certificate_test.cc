// A wrong epsilon does not get a certificate; a right one does.
#include "accounting/certificate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "accounting/accountant.h"
#include "accounting/ledger.h"
#include "tests/accounting/ledger_fixture.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;
using testing::open_fields;

LedgerReport report_of(const json& event, int charges = 3) {
  json plan = open_fields().at("plan");
  plan["event"] = event;
  const json start = {{"id", "a"}, {"world_size", 1}};
  return verify_ledger_text(testing::ledger_of(plan, start, event, charges).text());
}

LedgerReport sample_report() { return report_of(testing::event()); }

TEST(Certificate, ConfirmsTheEpsilonOfAnIntactLedger) {
  const LedgerReport report = sample_report();
  ASSERT_TRUE(report.valid) << report.reason;
  const Certificate certificate = certify(report);
  EXPECT_EQ(certificate.verdict, Verdict::kConfirmed) << certificate.reason;
  EXPECT_LE(certificate.upper, report.epsilon * (1 + kLargestGap));
  EXPECT_GE(certificate.lower, report.lower_bound * (1 - 1e-9));
  EXPECT_LT(certificate.upper - certificate.lower, 1e-5 * certificate.upper);
}

TEST(Certificate, RefutesAnEpsilonBelowTheExactOne) {
  LedgerReport report = sample_report();
  report.epsilon = certify(report).lower * 0.999;
  EXPECT_EQ(certify(report).verdict, Verdict::kRefuted);
}

TEST(Certificate, RefutesALowerBoundAboveTheExactEpsilon) {
  LedgerReport report = sample_report();
  report.lower_bound = certify(report).upper * 1.001;
  EXPECT_EQ(certify(report).verdict, Verdict::kRefuted);
}

TEST(Certificate, ChargesBeyondThePlanCount) {
  LedgerReport report = report_of(testing::event(), 200);
  ASSERT_TRUE(report.valid) << report.reason;
  EXPECT_EQ(certify(report).verdict, Verdict::kConfirmed);
  report.epsilon = sample_report().epsilon;  // that of the ten planned steps
  EXPECT_EQ(certify(report).verdict, Verdict::kRefuted);
}

TEST(Certificate, ConfirmsPlainAndSameSampleGaussians) {
  const LedgerReport plain = report_of({{"mechanism", "gaussian"}, {"noise_multiplier", 4.0}});
  ASSERT_TRUE(plain.valid) << plain.reason;
  EXPECT_EQ(certify(plain).verdict, Verdict::kConfirmed) << certify(plain).reason;
  const LedgerReport groups = report_of({{"mechanism", "same_sample_gaussian"},
                                         {"sample_rate", 0.05},
                                         {"noise_multipliers", {2.0, 3.0}},
                                         {"releases", 1},
                                         {"relation", "add_or_remove_one"}});
  ASSERT_TRUE(groups.valid) << groups.reason;
  EXPECT_EQ(certify(groups).verdict, Verdict::kConfirmed) << certify(groups).reason;
}

const Observer kObservers[] = {Observer::kColludingRanks, Observer::kOutsiders};

double reported(const LedgerReport& report, Observer observer) {
  return observer == Observer::kOutsiders ? report.epsilon_outsiders : report.epsilon;
}

std::vector<testing::ShareRun> share_runs() {
  std::vector<testing::ShareRun> runs = {
      {},                                                                              // four ranks, dithered
      {.grid_exponent = -20},                                                          // whole contributions
      {.ranks = 2, .noise_multiplier = 0.7, .steps = 200},                             //
      {.ranks = 64, .colluding_ranks = 32, .sample_rate = 0.01, .steps = 2000},        //
      {.ranks = 3, .colluding_ranks = 0, .sample_rate = 0.3},                          //
      {.sample_rate = 1, .noise_multiplier = 5, .steps = 30},                          // no sampling
      {.parameters = 1'000'000, .lane_exponent = -12, .steps = 500},                   // lanes of 16 bits
      {.ranks = 5, .colluding_ranks = 4, .parameters = 100'000, .lane_exponent = -8},  // rounding dominates
      {.ranks = 2, .sample_rate = 0.2, .parameters = 400, .lane_exponent = -4, .steps = 3},
      {.sample_rate = 0.5, .parameters = 1'000'000'000, .steps = 100}};
  return runs;
}

// Bounds of two derivations of noise shares: the second never below what a run certainly leaks, the first
// never below the second by more than its rounding.
TEST(Certificate, ConfirmsTheEpsilonsOfNoiseSharesToRanksAndToOutsiders) {
  for (const testing::ShareRun& run : share_runs()) {
    const LedgerReport report = verify_ledger_text(testing::ledger_of(run).text());
    ASSERT_TRUE(report.valid) << report.reason;
    for (const Observer observer : kObservers) {
      const Certificate certificate = certify(report, observer);
      const std::string which = run.plan().dump();
      EXPECT_EQ(certificate.verdict, Verdict::kConfirmed) << certificate.reason << "\n" << which;
      EXPECT_LE(certificate.lower, certificate.upper) << which;
      EXPECT_GT(certificate.lower, 0) << which;
      EXPECT_LE(certificate.upper, reported(report, observer) * (1 + kLargestGap)) << which;
    }
  }
}

TEST(Certificate, IsNarrowForWholeContributionsOnAFineGrid) {
  testing::ShareRun run{.grid_exponent = -20, .max_grad_norm = 1};
  const LedgerReport report = verify_ledger_text(testing::ledger_of(run).text());
  for (const Observer observer : kObservers) {
    const Certificate certificate = certify(report, observer);
    EXPECT_LT(certificate.upper / certificate.lower, 1 + 2e-5);
  }
}

TEST(Certificate, RefutesEpsilonsOfNoiseSharesThatAreTooSmall) {
  LedgerReport report = verify_ledger_text(testing::ledger_of(testing::ShareRun{}).text());
  const LedgerReport right = report;
  report.epsilon = right.epsilon_outsiders;  // as if the colluding ranks' noise counted
  EXPECT_EQ(certify(report).verdict, Verdict::kRefuted);
  EXPECT_EQ(certify(report, Observer::kOutsiders).verdict, Verdict::kConfirmed);
  report = right;
  report.epsilon_outsiders *= 0.99;
  EXPECT_EQ(certify(report).verdict, Verdict::kConfirmed);
  EXPECT_EQ(certify(report, Observer::kOutsiders).verdict, Verdict::kRefuted);
  report.epsilon = right.epsilon * 0.999;
  EXPECT_EQ(certify(report).verdict, Verdict::kRefuted);
}

// Where the inversion is loose, or no epsilon was found, nothing is confirmed and nothing is refuted.
TEST(Certificate, DoesNotRefuteWhatItCannotBracketClosely) {
  const testing::ShareRun loose[] = {{.ranks = 19,
                                      .colluding_ranks = 12,
                                      .sample_rate = 0.0057,
                                      .noise_multiplier = 3.9,
                                      .parameters = 4525,
                                      .lane_exponent = -16,
                                      .steps = 1},
                                     {.ranks = 3,
                                      .sample_rate = 0.0021,
                                      .noise_multiplier = 1.96,
                                      .parameters = 315,
                                      .lane_exponent = -3,
                                      .steps = 5},
                                     {.ranks = 9,
                                      .colluding_ranks = 0,
                                      .sample_rate = 0.18,
                                      .noise_multiplier = 0.59,
                                      .parameters = 4427,
                                      .lane_exponent = -19,
                                      .steps = 2057},
                                     {.ranks = 25,
                                      .colluding_ranks = 11,
                                      .sample_rate = 0.0236,
                                      .noise_multiplier = 0.667,
                                      .parameters = 102,
                                      .lane_exponent = -12,
                                      .grid_exponent = -12,
                                      .steps = 9551}};
  for (const testing::ShareRun& run : loose) {
    const LedgerReport report = verify_ledger_text(testing::ledger_of(run).text());
    ASSERT_TRUE(report.valid) << report.reason;
    for (const Observer observer : kObservers)
      EXPECT_NE(certify(report, observer).verdict, Verdict::kRefuted) << certify(report, observer).reason;
  }
}

// What the dither adds is in no lower bound: only the second upper bound shows that it was left out.
TEST(Certificate, RefutesAnEpsilonOfNoiseSharesThatForgetsTheDither) {
  const testing::ShareRun run{.parameters = 1'000'000, .lane_exponent = -12, .steps = 500};
  LedgerReport report = verify_ledger_text(testing::ledger_of(run).text());
  NoiseSharesEvent whole = run.event();
  whole.rounded_dimension = 0;
  report.epsilon = epsilon_of(whole, run.steps, report.delta).epsilon;
  EXPECT_EQ(certify(report).verdict, Verdict::kRefuted);
}

// A run that went on with fewer ranks, and one whose sampler's error delta does not cover.
TEST(Certificate, CoversShareRunsOfSeveralStartsAndSaysWhereItCannot) {
  const testing::ShareRun four, three{.ranks = 3};
  Ledger ledger = testing::ledger_of(four, 6, three, 4);
  LedgerReport report = verify_ledger_text(ledger.text());
  for (const Observer observer : kObservers)
    EXPECT_EQ(certify(report, observer).verdict, Verdict::kConfirmed) << certify(report, observer).reason;
  ledger.charge(10, 10, testing::event());
  report = verify_ledger_text(ledger.text());
  ASSERT_TRUE(report.valid) << report.reason;
  EXPECT_EQ(certify(report).verdict, Verdict::kNotDerived);
  EXPECT_NE(certify(report).reason.find("beside other mechanisms"), std::string::npos);
}

TEST(Certificate, SaysWhatItDoesNotDerive) {
  const LedgerReport report = report_of(
      {{"mechanism", "laplace"}, {"scale", 3.0}, {"sensitivity", 1.0}, {"relation", "add_or_remove_one"}});
  ASSERT_TRUE(report.valid) << report.reason;
  const Certificate certificate = certify(report);
  EXPECT_EQ(certificate.verdict, Verdict::kNotDerived);
  EXPECT_NE(certificate.reason.find("laplace"), std::string::npos);
  LedgerReport invalid = report;
  invalid.valid = false;
  EXPECT_EQ(certify(invalid).verdict, Verdict::kNotDerived);
}

}  // namespace
}  // namespace dpfa::accounting
