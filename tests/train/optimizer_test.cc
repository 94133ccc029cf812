// The learning rate over a run, and what an optimizer keeps.
#include "src/train/optimizer.h"

#include <gtest/gtest.h>

#include "src/model/gpt2.h"
#include "src/privacy/noisy_gradient.h"
#include "src/train/baseline_gradient.h"

namespace dpfa::train {
namespace {

plan::OptimizerConfig schedule(const std::string& name, int64_t warmup) {
  plan::OptimizerConfig config;
  config.learning_rate = 0.4;
  config.schedule = name;
  config.warmup_steps = warmup;
  config.final_learning_rate_ratio = 0.1;
  return config;
}

TEST(LearningRate, RisesLinearlyFromAboveZeroToTheFullRateInTheWarmUp) {
  for (const std::string name : {"cosine", "constant"}) {
    const auto config = schedule(name, 4);
    for (int64_t step = 0; step < 4; ++step)
      EXPECT_DOUBLE_EQ(learning_rate(config, step, 10), 0.1 * static_cast<double>(step + 1));
    EXPECT_DOUBLE_EQ(learning_rate(config, 4, 10), 0.4);
  }
}

TEST(LearningRate, FollowsACosineFromTheFullRateToTheFinalRatio) {
  const auto config = schedule("cosine", 2);
  EXPECT_DOUBLE_EQ(learning_rate(config, 2, 10), 0.4);
  EXPECT_NEAR(learning_rate(config, 6, 10), 0.4 * 0.55, 1e-15);  // half way: the mean of 1 and 0.1
  EXPECT_NEAR(learning_rate(config, 10, 10), 0.04, 1e-15);
  for (int64_t step = 3; step < 10; ++step)
    EXPECT_LT(learning_rate(config, step, 10), learning_rate(config, step - 1, 10));
}

TEST(LearningRate, StaysConstantWhereAskedTo) {
  for (int64_t step = 0; step < 10; ++step) EXPECT_EQ(learning_rate(schedule("constant", 0), step, 10), 0.4);
}

TEST(LearningRate, IsFiniteAndPositiveWhereTheWarmUpIsAsLongAsTheRunOrLonger) {
  for (const int64_t warmup : {1, 9, 10, 11, 50})
    for (int64_t step = 0; step < 10; ++step) {
      const double rate = learning_rate(schedule("cosine", warmup), step, 10);
      EXPECT_GT(rate, 0);
      EXPECT_LE(rate, 0.4);
    }
}

struct Moments {
  bool first, second;
};

Moments kept(const std::string& name, double momentum) {
  plan::OptimizerConfig config;
  config.name = name;
  config.momentum = momentum;
  const plan::Gpt2Shape shape{1, 4, 1, 4, 9, true};
  Optimizer<BaselineGradient> optimizer(config, model::gpt2_parameters(shape));
  const auto size = [&](const FlatBuffer<float>& values) { return values.size() == shape.parameter_count(); };
  return {size(optimizer.state().first), size(optimizer.state().second)};
}

TEST(Optimizer, KeepsTheMomentsThatItsRuleHasAndNoMore) {
  EXPECT_TRUE(kept("adamw", 0).first && kept("adamw", 0).second);
  EXPECT_TRUE(kept("sgd", 0.9).first && !kept("sgd", 0.9).second);
  EXPECT_TRUE(!kept("sgd", 0).first && !kept("sgd", 0).second);
}

// The optimizer of a private run takes a NoisyGradient and nothing else.
template <typename Gradient, typename Given>
concept Applies = requires(Optimizer<Gradient>& optimizer, Given& given, std::span<float> weights) {
  optimizer.apply(given, 0.1, weights, std::span<uint16_t>());
};
static_assert(Applies<privacy::NoisyGradient, privacy::NoisyGradient>);
static_assert(!Applies<privacy::NoisyGradient, BaselineGradient>);
static_assert(!Applies<privacy::NoisyGradient, std::span<const float>>);
static_assert(!Applies<privacy::NoisyGradient, FlatBuffer<float>>);

}  // namespace
}  // namespace dpfa::train
