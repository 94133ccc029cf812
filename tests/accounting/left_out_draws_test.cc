// What a run costs that leaves some draws out: part of delta pays, wherever an epsilon is stated.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/certificate.h"
#include "accounting/joint_ledger.h"
#include "tests/accounting/ledger_fixture.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Balle and Wang 2018, for one Gaussian of noise multiplier `sigma`, by the complementary error function.
double gaussian_delta(double sigma, double epsilon) {
  const auto above = [](double x) { return std::erfc(x / std::sqrt(2.0)) / 2; };
  return above(epsilon * sigma - 1 / (2 * sigma)) -
         std::exp(epsilon) * above(epsilon * sigma + 1 / (2 * sigma));
}

// A mechanism that names its data set with the probability of a deviation and is a Gaussian otherwise.
TEST(LeftOutDraws, EpsilonIsTheLeastThatPaysForThem) {
  const double delta = 1e-5;
  for (const double sigma : {0.8, 2.0})
    for (const double deviation : {1e-12, 1e-9, 1e-8}) {
      const std::vector<Charge> charges = {{GaussianEvent{sigma}, 1}};
      const double epsilon = epsilon_of(charges, delta, deviation).epsilon;
      EXPECT_LE(deviation + (1 - deviation) * gaussian_delta(sigma, epsilon), delta);
      const double needed = gaussian_delta(sigma, epsilon) + (1 + std::exp(epsilon)) * deviation;
      EXPECT_LE(needed, delta * (1 + 1e-9)) << sigma << " " << deviation;
      EXPECT_GE(needed, delta * (1 - 1e-6)) << sigma << " " << deviation;
    }
}

TEST(LeftOutDraws, CostMoreTheMoreThereMayBeAndEverythingWhereNothingIsLeft) {
  const std::vector<Charge> charges = {{PoissonSampledGaussianEvent{0.01, 1}, 1000}};
  const double delta = 1e-6;
  EXPECT_EQ(epsilon_of(charges, delta, 0).epsilon, epsilon_of(charges, delta).epsilon);
  double last = epsilon_of(charges, delta).epsilon;
  for (const double deviation : {1e-12, 1e-9, 1e-8, 3e-8}) {
    const EpsilonReport report = epsilon_of(charges, delta, deviation);
    EXPECT_GT(report.epsilon, last);
    EXPECT_EQ(report.delta, delta);
    EXPECT_LE(epsilon_of(charges, delta_left(delta, report.epsilon, deviation)).epsilon, report.epsilon);
    last = report.epsilon;
  }
  EXPECT_EQ(epsilon_of(charges, delta, 2e-7).epsilon, kInfinity);
  EXPECT_EQ(epsilon_of(charges, delta, 1).epsilon, kInfinity);
}

// The fixture's plan of 10 steps at delta 1e-5, of which each leaves something out with this probability.
nlohmann::json open_with(const nlohmann::json& draw_overrun) {
  nlohmann::json plan = testing::open_fields().at("plan");
  plan["draw_overrun"] = draw_overrun;
  return testing::open_fields_of(plan);
}
void start_and_charge(Ledger ledger) {
  ledger.start({{"world_size", 1}, {"id", "s"}});
  for (int i = 0; i < 4; ++i) ledger.charge(i, i, testing::event());
}

class LeftOutDrawsOfARun : public ::testing::Test {
 protected:
  LeftOutDrawsOfARun() : charges_{{event_from_json(testing::event()), 10}} {}
  std::filesystem::path run(const std::string& name, const nlohmann::json& draw_overrun) const {
    std::filesystem::create_directories(folder_ / name);
    start_and_charge(Ledger::create(folder_ / name / "ledger.jsonl", open_with(draw_overrun)));
    return folder_ / name;
  }
  dpfa::testing::TemporaryFolder folder_;
  const std::vector<Charge> charges_;
};

TEST_F(LeftOutDrawsOfARun, AreInTheEpsilonOfItsLedgerAndOfItsCertificate) {
  const LedgerReport report = verify_ledger(run("run", 1e-8));
  ASSERT_TRUE(report.valid) << report.reason;
  EXPECT_DOUBLE_EQ(report.deviation, 1e-7);
  EXPECT_EQ(report.epsilon, epsilon_of(charges_, 1e-5, report.deviation).epsilon);
  EXPECT_GT(report.epsilon, epsilon_of(charges_, 1e-5).epsilon);
  EXPECT_EQ(report.epsilon_outsiders, report.epsilon);
  const std::vector<Charge> charged = {{charges_[0].event, 4}};
  EXPECT_EQ(report.epsilon_charged, epsilon_of(charged, 1e-5, 4 * 1e-8).epsilon);
  const Certificate certificate = certify(report);
  EXPECT_EQ(certificate.verdict, Verdict::kConfirmed) << certificate.reason;
  LedgerReport unpaid = report;
  unpaid.epsilon = epsilon_of(charges_, 1e-5).epsilon;
  EXPECT_EQ(certify(unpaid).verdict, Verdict::kRefuted);
}

TEST_F(LeftOutDrawsOfARun, ThatCostAllOfDeltaLeaveNoEpsilon) {
  const LedgerReport report = verify_ledger(run("run", 1e-5));
  ASSERT_TRUE(report.valid) << report.reason;
  EXPECT_EQ(report.epsilon, kInfinity);
  EXPECT_EQ(certify(report).verdict, Verdict::kNotDerived);
  for (const nlohmann::json& wrong : {nlohmann::json(-1e-9), nlohmann::json(2), nlohmann::json("x")}) {
    Ledger ledger = Ledger::in_memory(open_with(wrong));
    EXPECT_FALSE(verify_ledger_text(ledger.text()).valid) << wrong;
  }
}

TEST_F(LeftOutDrawsOfARun, AddUpOverTheRunsOnADataSet) {
  const auto one = run("one", 1e-8), other = run("other", 2e-8);
  const JointReport joint = joint_ledgers("00ff", {one, other});
  ASSERT_EQ(joint.refusal, "");
  const std::vector<Charge> both = {{charges_[0].event, 20}};
  EXPECT_DOUBLE_EQ(joint.epsilon, epsilon_of(both, 1e-5, 3e-7).epsilon);
}

}  // namespace
}  // namespace dpfa::accounting
