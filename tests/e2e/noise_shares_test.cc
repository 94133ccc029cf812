// Runs with noise = shares on several ranks: every start says its ranks and shares, charges are never
// lowered, and a run may go on with fewer ranks.
#include <cmath>

#include "src/plan/plan.h"
#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

class NoiseShares : public Failures {
 protected:
  Words shares(const Words& more = {}) const { return train({"--aggregation.noise", "shares"}) + more; }
  std::vector<nlohmann::json> lines(const std::string& kind) const {
    std::vector<nlohmann::json> found;
    for (const auto& line : read_json_lines(ledger_))
      if (line.at("kind") == kind) found.push_back(line);
    return found;
  }
};

TEST_F(NoiseShares, GoOnWithFewerRanksUnderTheSameClaim) {
  Job job(on_ranks(3, shares()));
  ASSERT_TRUE(waits_for_charges(job, 10)) << job.errors();
  job.send(SIGUSR1);
  ASSERT_EQ(job.wait(), 75) << job.errors();
  const size_t before = charges();
  expect_success(on_ranks(2, resume({"--privacy.steps", std::to_string(kSteps)})));
  const auto starts = lines("start"), charged = lines("charge");
  ASSERT_EQ(starts.size(), 2u);
  EXPECT_EQ(starts[0].at("world_size"), 3);
  EXPECT_EQ(starts[1].at("world_size"), 2);
  EXPECT_EQ(starts[0].at("colluding_ranks"), 0);
  const double ratio = starts[1].at("share_sigma").get<double>() / starts[0].at("share_sigma").get<double>();
  EXPECT_NEAR(ratio, std::sqrt(1.5), 1e-12);
  EXPECT_EQ(charged.size(), static_cast<size_t>(kSteps)) << "nothing was refunded or repeated";
  for (size_t i = 0; i < charged.size(); ++i) {
    const auto& event = charged[i].at("event");
    EXPECT_EQ(event.at("ranks"), i < before ? 3 : 2) << i;
    EXPECT_EQ(event.at("share_sigma"), starts[i < before ? 0 : 1].at("share_sigma")) << i;
    EXPECT_EQ(charged[i].at("draw"), i);
  }
  const auto report = verified();
  EXPECT_EQ(report.value("valid", false), true) << report;
  EXPECT_EQ(report.at("epsilon"), report.at("epsilon_outsiders"));
}

// A rank that is killed between charge and apply, in checkpoints, anywhere: what it left is charged.
TEST_F(NoiseShares, StayChargedWhereARankIsLost) {
  for (const int lost : {1, 0}) {
    Job job(on_ranks(2, lost == 1 ? shares() : resume()));
    const size_t before = charges();
    ASSERT_TRUE(waits_for_charges(job, before + 7)) << job.errors();
    kill(job.rank(lost), SIGKILL);
    EXPECT_NE(job.wait(), 0);
    EXPECT_GE(charges(), before + 7);
    expect_all_charged();
  }
}

TEST_F(NoiseShares, AreRefusedOnAnotherNumberOfRanksThanStated) {
  expect_failure(on_ranks(2, shares({"--aggregation.ranks", "3"})), 2, "2 ranks were started");
  expect_failure(shares({"--aggregation.colluding_ranks", "1"}), 6, "mode = plaintext");
  expect_failure(train({"--aggregation.colluding_ranks", "1"}), 6, "every rank knows the noise");
  expect_failure(shares({"--runtime.constant_step_slots", "true"}), 2, "privacy.dataset_size");
  EXPECT_FALSE(std::filesystem::exists(run_));
  // A dry run states what a job of three ranks would claim.
  const Ended dry = run_command(shares({"--aggregation.ranks", "3", "--dry_run"}));
  EXPECT_EQ(dry.code, 0) << dry.errors;
  EXPECT_NE(dry.output.find("each of 3 ranks adds"), std::string::npos) << dry.output;
  EXPECT_NE(dry.output.find("no claim"), std::string::npos) << dry.output;
}

TEST_F(NoiseShares, TrainWithADitherAndWithConstantWork) {
  for (const std::string numerics : {"exact", "fp32"}) {
    expect_success(on_ranks(2, shares({"--output.dir", folder_ / numerics, "--privacy.numerics", numerics,
                                       "--aggregation.lane_bits", "21", "--aggregation.clamp_norms", "1",
                                       "--privacy.dataset_size", "64", "--runtime.constant_step_slots",
                                       "true", "--privacy.steps", "5"})));
    const auto open = read_json_lines(folder_ / numerics / "ledger.jsonl").front();
    EXPECT_EQ(open.at("plan").at("event").at("rounded_dimension").get<int64_t>() > 0, numerics == "fp32");
    EXPECT_NO_THROW(plan::PrivacyPlan::from_json(open.at("plan")));
  }
}

}  // namespace
}  // namespace dpfa::testing
