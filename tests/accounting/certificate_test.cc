// A wrong epsilon does not get a certificate; a right one does.
#include "accounting/certificate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "accounting/ledger.h"
#include "tests/accounting/ledger_fixture.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;
using testing::open_fields;

LedgerReport report_of(const json& event, int charges = 3) {
  json fields = open_fields();
  fields["plan"]["event"] = event;
  fields["plan_digest"] = blake2b_hex(fields["plan"].dump());
  Ledger ledger = Ledger::in_memory(fields);
  ledger.start({{"id", "a"}, {"world_size", 1}});
  for (int i = 0; i < charges; ++i) ledger.charge(i, i, event);
  return verify_ledger_text(ledger.text());
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
