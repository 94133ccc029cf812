// How a job under a real mpirun ends when one of its ranks does.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <string>

namespace dpfa::comm {
namespace {

struct Outcome {
  int code;
  std::string output;
  double seconds;
};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Outcome run(const std::string& command) {
  const auto begin = std::chrono::steady_clock::now();
  FILE* pipe = popen(("timeout --signal=KILL 60 " + command + " 2>&1").c_str(), "r");
  Outcome outcome{-1, "", 0};
  char buffer[4096];
  while (size_t got = std::fread(buffer, 1, sizeof(buffer), pipe)) outcome.output.append(buffer, got);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

Outcome on_four_ranks(const std::string& program) {
  return run(variable("DPFA_MPIRUN") + " -np 4 --oversubscribe --bind-to none " + program);
}

Outcome job(const std::string& mode) { return on_four_ranks(variable("DPFA_JOB") + " " + mode); }

class JobEnd : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(variable("DPFA_MPIRUN"), "") << "run this test through ctest, which names mpirun";
    ASSERT_NE(variable("DPFA_JOB"), "");
  }
};

TEST_F(JobEnd, ThatIsDoneIsCodeZero) {
  const Outcome outcome = job("steps");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("4 ranks ended with 0"), std::string::npos) << outcome.output;
}

TEST_F(JobEnd, OfAKilledRankEndsAllRanksWithItsSignal) {
  const Outcome outcome = job("killed");
  EXPECT_EQ(outcome.code, 137) << outcome.output;
  EXPECT_LT(outcome.seconds, 30);
}

TEST_F(JobEnd, ByAbortOnOneRankEndsAllRanksWithItsCode) {
  const Outcome outcome = job("abort");
  EXPECT_EQ(outcome.code, 5) << outcome.output;
  EXPECT_LT(outcome.seconds, 30);
}

TEST_F(JobEnd, ByAnErrorOnOneRankEndsAllRanksWithTheCodeOfItsClass) {
  const Outcome outcome = job("exception");
  EXPECT_EQ(outcome.code, 7) << outcome.output;
  EXPECT_NE(outcome.output.find("the disk is full"), std::string::npos) << outcome.output;
}

TEST_F(JobEnd, OfAStoppedRankComesFromTheWatchdogOfTheOthers) {
  // mpirun alone would wait for ever.
  const Outcome outcome = job("stopped");
  EXPECT_EQ(outcome.code, 76) << outcome.output;
  EXPECT_NE(outcome.output.find("since phase 'step'"), std::string::npos) << outcome.output;
  EXPECT_LT(outcome.seconds, 30);
}

TEST_F(JobEnd, OfAWorldOfAnotherSizeThanExpectedIsAConfigurationError) {
  const Outcome outcome = job("expect");
  EXPECT_EQ(outcome.code, 2) << outcome.output;
  EXPECT_NE(outcome.output.find("expects 3 ranks"), std::string::npos) << outcome.output;
}

TEST_F(JobEnd, OfASingletonThatWasAnnouncedMoreRanksIsAConfigurationError) {
  const std::string alone = "env --unset=OMPI_COMM_WORLD_SIZE ";
  const Outcome torchrun = run(alone + "RANK=0 WORLD_SIZE=4 " + variable("DPFA_JOB") + " steps");
  EXPECT_EQ(torchrun.code, 2) << torchrun.output;
  EXPECT_NE(torchrun.output.find("announces 4"), std::string::npos) << torchrun.output;
  const Outcome plain = run(alone + "--unset=RANK --unset=WORLD_SIZE " + variable("DPFA_JOB") + " steps");
  EXPECT_EQ(plain.code, 0) << plain.output;
}

TEST_F(JobEnd, OfATestProgramIsAFailureWhereOneRankFailed) {
  const Outcome outcome = on_four_ranks(variable("DPFA_FAILING_RANK"));
  EXPECT_EQ(outcome.code, 1) << outcome.output;
  EXPECT_NE(outcome.output.find("rank 1: FailingRank.FailsOnRankOne failed"), std::string::npos)
      << outcome.output;
}

}  // namespace
}  // namespace dpfa::comm
