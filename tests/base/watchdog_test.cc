#include "src/base/watchdog.h"

#include <gtest/gtest.h>

#include <thread>

namespace dpfa {
namespace {

using namespace std::chrono_literals;

class WatchdogDeathTest : public testing::Test {
 protected:
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(WatchdogDeathTest, EndsASilentProcessWithCode76AndNamesRankAndPhase) {
  EXPECT_EXIT(
      {
        Watchdog watchdog(3, 1s);
        watchdog.progress("reduce");
        std::this_thread::sleep_for(60s);
      },
      testing::ExitedWithCode(76), "rank 3: no progress for .* since phase 'reduce'");
}

TEST_F(WatchdogDeathTest, EndsAProcessThatNeverReportedProgress) {
  EXPECT_EXIT(
      {
        Watchdog watchdog(0, 1s);
        std::this_thread::sleep_for(60s);
      },
      testing::ExitedWithCode(76), "since phase 'start'");
}

TEST_F(WatchdogDeathTest, LeavesAProcessAloneThatReportsProgress) {
  EXPECT_EXIT(
      {
        Watchdog watchdog(0, 1s);
        for (int i = 0; i < 8; ++i) {
          std::this_thread::sleep_for(250ms);
          watchdog.progress("forward");
        }
        _exit(0);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(WatchdogDeathTest, WaitsTenTimesTheLongestPhaseSeen) {
  EXPECT_EXIT(
      {
        Watchdog watchdog(0, 1s);
        watchdog.progress("forward");
        std::this_thread::sleep_for(400ms);
        watchdog.progress("backward");
        std::this_thread::sleep_for(2s);  // above the minimum, below ten times the longest phase
        _exit(0);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(WatchdogDeathTest, DoesNotLearnFromTheFirstPhase) {
  EXPECT_EXIT(
      {
        Watchdog watchdog(0, 1s);
        std::this_thread::sleep_for(700ms);
        watchdog.progress("forward");
        std::this_thread::sleep_for(5s);  // below ten times the first gap
        _exit(0);
      },
      testing::ExitedWithCode(76), "forward");
}

TEST_F(WatchdogDeathTest, AMinimumOfZeroSwitchesItOff) {
  EXPECT_EXIT(
      {
        Watchdog watchdog(0, 0s);
        watchdog.progress("forward");
        std::this_thread::sleep_for(1500ms);
        _exit(0);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Watchdog, EndsWithItsOwner) {
  const auto begin = std::chrono::steady_clock::now();
  { Watchdog watchdog(0, 3600s); }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 60s);
}

}  // namespace
}  // namespace dpfa
