// Full disks, torn and altered ledgers, foreign checkpoints: nothing is lost, nothing foreign is continued.
#include <sys/resource.h>

#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

namespace fs = std::filesystem;
using FailedStorage = Failures;

// From now on no file of that process may grow beyond `bytes`: what a full disk is to it.
void fill_disk(pid_t process, size_t bytes) {
  const rlimit limit{bytes, bytes};
  ASSERT_EQ(prlimit(process, RLIMIT_FSIZE, &limit, nullptr), 0);
}

TEST_F(FailedStorage, OfTheLedgerEndsTheRunWithCodeSevenAndResumeGoesOn) {
  for (const int ranks : {1, 2}) {
    const Words command = train({"--train.checkpoint_every", "0"});
    Job job(ranks == 1 ? command : on_ranks(ranks, command));
    ASSERT_TRUE(waits_for_charges(job, 10)) << job.errors();
    fill_disk(ranks == 1 ? job.pid() : job.rank(0), fs::file_size(ledger_) + 1000);
    EXPECT_EQ(job.wait(), 7) << job.errors();
    EXPECT_EQ(sentences(job.errors()), 1) << job.errors();
    EXPECT_NE(job.errors().find("cannot write the ledger"), std::string::npos) << job.errors();
    const size_t before = verified().value("steps", size_t{0});
    EXPECT_GE(before, 10u);
    expect_all_charged();
    expect_success(resume());
    EXPECT_EQ(verified().value("steps", size_t{0}), before + kSteps);
    fs::remove_all(run_);
  }
}

TEST_F(FailedStorage, OfACheckpointEndsTheRunWithCodeSevenAndLosesNoCharge) {
  Job job(on_ranks(2, train({"--train.checkpoint_every", "40"})));
  ASSERT_TRUE(waits_for_charges(job, 5)) << job.errors();
  fill_disk(job.rank(0), 24'000);  // more than a ledger of 40 steps, less than the weights
  EXPECT_EQ(job.wait(), 7) << job.errors();
  EXPECT_EQ(sentences(job.errors()), 1) << job.errors();
  EXPECT_NE(job.errors().find("model.safetensors"), std::string::npos) << job.errors();
  EXPECT_TRUE(fs::is_empty(run_ / "checkpoints"));
  EXPECT_EQ(charges(), 40u);
  expect_all_charged();
  expect_success(resume());
  EXPECT_EQ(checkpoint_step(), kSteps);
}

class AfterALoss : public Failures {
 protected:
  // A run that was killed with a checkpoint on disk.
  void SetUp() override {
    Job job(train());
    ASSERT_TRUE(waits_for_charges(job, 50)) << job.errors();
    job.send(SIGKILL);
    job.wait();
    ASSERT_GE(checkpoint_step(), 20);
  }
};

TEST_F(AfterALoss, ATornLastLineCountsAsCharged) {
  const std::string whole = read_text(ledger_);
  const size_t lines = charges();
  write_text(ledger_, whole.substr(0, whole.size() - 40));
  EXPECT_EQ(charges(), lines);  // the cut leaves its kind readable
  const bool was_charge = whole.rfind("\"kind\":\"charge\"") > whole.rfind('\n', whole.size() - 2);
  const size_t charged = verified().value("steps", size_t{0});
  EXPECT_EQ(charged, lines + (was_charge ? 0 : 1)) << "a line of a checkpoint that is torn counts too";
  const size_t repeated = kSteps - static_cast<size_t>(checkpoint_step());
  expect_success(resume());
  EXPECT_EQ(verified().value("steps", size_t{0}), charged + repeated);
  expect_all_charged();
}

TEST_F(AfterALoss, AnAlteredLedgerIsRefusedWithCodeFive) {
  std::string text = read_text(ledger_);
  text.replace(text.find("\"draw\":7,"), 9, "\"draw\":8,");
  write_text(ledger_, text);
  expect_failure(resume(), 5, "is not intact");
  EXPECT_EQ(read_text(ledger_), text);
}

TEST_F(AfterALoss, AnotherPlanDatasetModelOrNumberOfRanksThanAllowedIsRefused) {
  write_dataset(folder_ / "other", made_records(64));
  const std::string before = read_text(ledger_);
  expect_failure(resume({"--privacy.noise_multiplier", "0.9"}), 5, "privacy plan");
  expect_failure(resume({"--data.train", folder_ / "other"}), 5, "belongs to dataset");
  expect_failure(resume({"--insecure_seed", "1"}), 5, "NOT PRIVATE options");
  expect_failure(resume({"--runtime.expected_world_size", "2"}), 2, "expects 2 ranks");
  EXPECT_EQ(read_text(ledger_), before);
  expect_failure(resume({"--model.heads", "4"}), 5, "other dimensions");
}

TEST_F(AfterALoss, ACheckpointOfAnotherPlanIsRefusedWithCodeFive) {
  const fs::path other = folder_ / "other";
  expect_success(train({"--output.dir", other, "--privacy.noise_multiplier", "0.9"}));
  const fs::path foreign = fs::path("checkpoints") / "step_00000200";
  fs::copy(other / foreign, run_ / foreign, fs::copy_options::recursive);
  expect_failure(resume(), 5, "another privacy plan");
}

TEST_F(AfterALoss, ADamagedCheckpointGivesWayToTheOneBeforeWithAWarning) {
  ASSERT_GE(checkpoint_step(), 40);
  fs::resize_file(run_ / "latest" / "model.safetensors", 100);
  const Ended ended = run_command(resume());
  EXPECT_EQ(ended.code, 0) << ended.errors;
  EXPECT_NE(ended.errors.find("warning: skipped damaged checkpoints"), std::string::npos) << ended.errors;
  expect_all_charged();
}

TEST_F(FailedStorage, OfABudgetThatRestartsUsedUpIsCodeThreeAfterAValidCheckpoint) {
  const Words budget = {"--privacy.noise_multiplier=", "--privacy.target_epsilon", "5",
                        "--privacy.reserve_steps", "0"};
  Job job(train(budget));
  ASSERT_TRUE(waits_for_charges(job, 30)) << job.errors();
  job.send(SIGKILL);
  job.wait();
  const Ended ended = run_command(resume());
  EXPECT_EQ(ended.code, 3) << ended.errors;
  EXPECT_NE(ended.errors.find("the privacy budget is spent after 200 charges"), std::string::npos)
      << ended.errors;
  EXPECT_GE(checkpoint_step(), 20);
  EXPECT_LT(checkpoint_step(), kSteps);
  EXPECT_LE(verified().value("epsilon", 1e9), 5);
  expect_all_charged();
  EXPECT_EQ(run_command(resume()).code, 3);
}

}  // namespace
}  // namespace dpfa::testing
