// Ranks that are killed, stopped or asked to stop: the job ends, every release is charged, --resume finishes.
#include <random>

#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

namespace fs = std::filesystem;
using LostProcess = Failures;

TEST_F(LostProcess, OfEitherRankEndsTheJobAndResumeFinishesIt) {
  for (const int rank : {0, 1}) {
    Job job(on_ranks(2, train()));
    ASSERT_TRUE(waits_for_charges(job, 30)) << job.errors();
    ASSERT_GT(job.rank(rank), 0);
    kill(job.rank(rank), SIGKILL);
    EXPECT_EQ(job.wait(), 137) << job.errors();
    expect_all_charged();
    const size_t before = charges();
    expect_success(on_ranks(rank + 1, resume()));
    EXPECT_GE(charges(), before + 1);
    EXPECT_EQ(checkpoint_step(), kSteps);
    expect_all_charged();
    fs::remove_all(run_);
  }
}

TEST_F(LostProcess, AtAnyMomentLosesNoCharge) {
  std::mt19937_64 random(20260101);
  size_t before = 0;
  int killed_in_steps = 0;
  for (int start = 0; start < 10; ++start) {
    // A folder without a ledger ended before its first charge: the program asks to start anew.
    if (fs::exists(run_) && !fs::exists(ledger_)) {
      expect_failure(resume(), 5, "has no ledger.jsonl");
      fs::remove_all(run_);
    }
    Job job(fs::exists(run_) ? resume() : train());
    const bool in_steps = start % 2 == 0;  // otherwise mostly in the set-up
    if (in_steps) wait_until([&] { return job.ended() || charges() > before; }, Job::kLongest);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % (in_steps ? 100'000 : 600'000)));
    job.send(SIGKILL);
    if (job.wait() != 137) break;  // it was finished before
    if (!fs::exists(ledger_)) continue;
    expect_all_charged();
    const size_t now = verified().value("steps", size_t{0});
    EXPECT_GE(now, before);
    killed_in_steps += now > before;
    before = now;
  }
  EXPECT_GE(killed_in_steps, 3);
  expect_success(fs::exists(ledger_) ? resume() : train());
  EXPECT_EQ(checkpoint_step(), kSteps);
  expect_all_charged();
}

TEST_F(LostProcess, AskedToStopByUserSignalToMpirunWritesACheckpointAndWastesNoCharge) {
  Job job(on_ranks(2, train({"--train.checkpoint_every", "0"})));
  ASSERT_TRUE(waits_for_charges(job, 20)) << job.errors();
  job.send(SIGUSR1);
  EXPECT_EQ(job.wait(), 75) << job.errors();
  EXPECT_NE(job.errors().find("continue with --resume"), std::string::npos) << job.errors();
  EXPECT_EQ(charges(), static_cast<size_t>(checkpoint_step()));
  expect_all_charged();
  expect_success(on_ranks(2, resume()));
  EXPECT_EQ(charges(), static_cast<size_t>(kSteps));
}

TEST_F(LostProcess, TerminatedAloneWritesACheckpointAndIsCodeSeventyFive) {
  Job job(train({"--train.checkpoint_every", "0"}));
  ASSERT_TRUE(waits_for_charges(job, 20)) << job.errors();
  job.send(SIGTERM);
  EXPECT_EQ(job.wait(), 75) << job.errors();
  EXPECT_EQ(charges(), static_cast<size_t>(checkpoint_step()));
  expect_success(resume());
  EXPECT_EQ(charges(), static_cast<size_t>(kSteps));
}

TEST_F(LostProcess, TerminatedUnderMpirunLosesNoCharge) {
  Job job(on_ranks(2, train({"--train.checkpoint_every", "0"})));
  ASSERT_TRUE(waits_for_charges(job, 20)) << job.errors();
  job.send(SIGTERM);
  // mpirun kills after two seconds, whatever its ranks are doing: there may or may not be a checkpoint.
  EXPECT_NE(job.wait(), 0) << job.errors();
  expect_all_charged();
  expect_success(on_ranks(2, resume()));
  EXPECT_EQ(checkpoint_step(), kSteps);
  expect_all_charged();
}

TEST_F(LostProcess, ThatIsFrozenIsFoundByTheWatchdogOfItsPeer) {
  Job job(on_ranks(2, train({"--runtime.watchdog_seconds", "5"})));
  ASSERT_TRUE(waits_for_charges(job, 20)) << job.errors();
  ASSERT_GT(job.rank(1), 0);
  kill(job.rank(1), SIGSTOP);
  EXPECT_EQ(job.wait(), 76) << job.errors();
  EXPECT_NE(job.errors().find("rank 0: no progress for"), std::string::npos) << job.errors();
  expect_all_charged();
  expect_success(resume());
}

}  // namespace
}  // namespace dpfa::testing
