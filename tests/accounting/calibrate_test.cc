// Searches of the reported epsilon: never above the target, tight, monotone, and clear where impossible.
#include "accounting/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "accounting/accountant.h"

namespace dpfa::accounting {
namespace {

using Sampled = PoissonSampledGaussianEvent;

TEST(CalibratedNoise, MeetsTheTargetAndLessNoiseDoesNot) {
  for (double target : {0.05, 1.0, 8.0, 200.0}) {
    for (double q : {0.001, 0.2, 1.0}) {
      for (int64_t steps : {1, 1000}) {
        const double noise = noise_multiplier_for(target, 1e-6, q, steps);
        EXPECT_LE(epsilon_of(Sampled{q, noise}, steps, 1e-6).epsilon, target)
            << target << " " << q << " " << steps;
        EXPECT_GT(epsilon_of(Sampled{q, noise * (1 - 1e-5)}, steps, 1e-6).epsilon, target);
      }
    }
  }
}

TEST(CalibratedSteps, MeetTheTargetAndOneMoreDoesNot) {
  for (double target : {0.5, 2.0, 20.0}) {
    const int64_t steps = steps_for(target, 1e-6, 0.1, 3);
    EXPECT_LE(epsilon_of(Sampled{0.1, 3}, steps, 1e-6).epsilon, target);
    EXPECT_GT(epsilon_of(Sampled{0.1, 3}, steps + 1, 1e-6).epsilon, target);
  }
  EXPECT_EQ(steps_for(0.01, 1e-9, 0.5, 0.5), 0);
  EXPECT_EQ(steps_for(1, 1e-6, 0.5, 0), 0);
}

TEST(CalibratedRate, MeetsTheTargetAndMoreDoesNot) {
  for (double target : {0.3, 2.0, 10.0}) {
    for (int64_t steps : {1, 2000}) {
      const double rate = sample_rate_for(target, 1e-6, 1.2, steps);
      EXPECT_LE(epsilon_of(Sampled{rate, 1.2}, steps, 1e-6).epsilon, target);
      if (rate < 1) {
        EXPECT_GT(epsilon_of(Sampled{rate * (1 + 1e-5), 1.2}, steps, 1e-6).epsilon, target);
      }
    }
  }
  EXPECT_EQ(sample_rate_for(1, 1e-5, 10, 1), 1);
}

TEST(CalibratedNoise, FallsWithTheTargetAndGrowsWithRateAndSteps) {
  const double noise = noise_multiplier_for(2, 1e-6, 0.01, 1000);
  EXPECT_LE(noise_multiplier_for(2.05, 1e-6, 0.01, 1000), noise);
  EXPECT_LE(noise_multiplier_for(2, 1.2e-6, 0.01, 1000), noise);
  EXPECT_GE(noise_multiplier_for(2, 1e-6, 0.0102, 1000), noise);
  EXPECT_GE(noise_multiplier_for(2, 1e-6, 0.01, 1030), noise);
}

TEST(CalibratedSteps, GrowWithTheTargetAndNoiseAndFallWithTheRate) {
  const int64_t steps = steps_for(2, 1e-6, 0.01, 1);
  EXPECT_GE(steps_for(2.02, 1e-6, 0.01, 1), steps);
  EXPECT_GE(steps_for(2, 1.2e-6, 0.01, 1), steps);
  EXPECT_GE(steps_for(2, 1e-6, 0.01, 1.01), steps);
  EXPECT_LE(steps_for(2, 1e-6, 0.0101, 1), steps);
}

TEST(CalibratedRate, GrowsWithTheTargetAndNoiseAndFallsWithSteps) {
  const double rate = sample_rate_for(2, 1e-6, 1, 1000);
  EXPECT_GE(sample_rate_for(2.02, 1e-6, 1, 1000), rate);
  EXPECT_GE(sample_rate_for(2, 1e-6, 1.01, 1000), rate);
  EXPECT_LE(sample_rate_for(2, 1e-6, 1, 1030), rate);
}

TEST(CalibratedNoise, CountsTheOtherReleasesOfAFamily) {
  const double alone = noise_multiplier_for(2, 1e-6, 0.01, 1000);
  const ChargeFamily family = [](double noise) {
    return std::vector<Charge>{{Sampled{0.01, noise}, 1000}, {Sampled{0.01, 20}, 1000}};
  };
  const double beside = noise_multiplier_for(2, 1e-6, family);
  EXPECT_GT(beside, alone);
  EXPECT_LE(epsilon_upper_bound(family(beside), 1e-6), 2);
  // Where the fixed part alone exceeds the target, no noise is enough.
  EXPECT_THROW(noise_multiplier_for(1e-3, 1e-6, family), ConfigError);
}

TEST(Calibration, ImpossibleTargetsSayWhatToDo) {
  EXPECT_THROW(noise_multiplier_for(1e-9, 1e-12, 1, 1000000), ConfigError);
  EXPECT_THROW(noise_multiplier_for(-1, 1e-5, 0.1, 10), ConfigError);
  EXPECT_THROW(noise_multiplier_for(1, 0, 0.1, 10), ConfigError);
  EXPECT_THROW(noise_multiplier_for(1, 1e-5, 0, 10), ConfigError);
  EXPECT_THROW(noise_multiplier_for(1, 1e-5, 0.1, 0), ConfigError);
  EXPECT_THROW(sample_rate_for(1, 1e-5, 0, 10), ConfigError);
  EXPECT_THROW(sample_rate_for(1, 1e-5, 1, 0), ConfigError);
  EXPECT_THROW(steps_for(1, 1, 0.1, 1), ConfigError);
  try {
    noise_multiplier_for(1e-9, 1e-12, 1, 1000000);
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("raise the target epsilon"), std::string::npos);
  }
}

}  // namespace
}  // namespace dpfa::accounting
