#include "kernels/clip_rule.h"

#include <gtest/gtest.h>

#include <limits>

namespace dpfa::kernels {
namespace {

using enum ClipRule;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(ClipFactor, IsOneBelowTheNormAndZeroWhereNothingIsKnown) {
  EXPECT_EQ(clip_factor(0, 1), 1);
  EXPECT_EQ(clip_factor(1e-300, 1), 1);
  EXPECT_EQ(clip_factor(1, 1), 1);
  EXPECT_EQ(clip_factor(4, 1), 0.25);
  EXPECT_EQ(clip_factor(std::numeric_limits<double>::max(), 1), 1 / std::numeric_limits<double>::max());
  EXPECT_EQ(clip_factor(kInfinity, 1), 0);
  EXPECT_EQ(clip_factor(kNan, 1), 0);
}

TEST(ClipFactor, AutomaticIsFiniteForEveryFiniteNormAndZeroWhereNothingIsKnown) {
  const auto automatic = [](double norm, double c) { return clip_factor(norm, {c, kAutomatic}); };
  EXPECT_EQ(automatic(0, 1), 1 / 0.01);
  EXPECT_EQ(automatic(0, 1e12), 1e12 / 0.01);
  EXPECT_EQ(automatic(1e-300, 1), 1 / 0.01);
  EXPECT_EQ(automatic(0.01, 1), 50);
  EXPECT_EQ(automatic(3.99, 1), 0.25);
  EXPECT_EQ(automatic(std::numeric_limits<double>::max(), 1), 1 / std::numeric_limits<double>::max());
  EXPECT_EQ(automatic(kInfinity, 1), 0);
  EXPECT_EQ(automatic(kNan, 1), 0);
}

// Up to norms far above those of f32 numbers, where a factor is still no subnormal double.
TEST(ClipFactor, BringsEveryNormToAtMostTheClippingNorm) {
  for (const ClipRule rule : {kFlat, kAutomatic})
    for (const double c : {1e-12, 0.3, 1.0, 1e12})
      for (double norm = 1e-320; norm < 1e290; norm *= 7)
        EXPECT_LE(clip_factor(norm, {c, rule}) * norm, c * (1 + 0x1p-51)) << "C = " << c << ", norm " << norm;
}

}  // namespace
}  // namespace dpfa::kernels
