// The private step: one charge and the same collectives whatever was drawn, and never the same draw twice.
#include "src/train/steps.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/support/engine_oracle.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::train {
namespace {

constexpr plan::Gpt2Shape kShape{
    .layers = 1, .width = 16, .heads = 2, .positions = 16, .vocab = 257, .tied_head = true};

// A run with `records` records, each drawn with probability `rate`; plain gradient descent with rate 1, so
// that the weights move by the released gradient.
class SmallRun {
 public:
  SmallRun(int64_t records, double rate, double noise_multiplier, bool constant_step_slots = false)
      : config_(made_config(rate, noise_multiplier, constant_step_slots)),
        plan_(plan::PrivacyPlan::derive(config_.privacy, {}, kShape.parameter_count())),
        dataset_(made_dataset(folder_ / "data", records)),
        ledger_(accounting::Ledger::in_memory({{"plan", plan_.to_json()}})),
        model_(kShape, at::kFloat),
        keys_(make_run_keys(communicator, /*insecure_seed=*/7)),
        watchdog_(0, std::chrono::seconds(0)) {
    start();
  }

  // A process start from the initial weights, with the ledger as it stands and (unlike a real one) the same
  // keys.
  void start() {
    weights = initial;
    model_.bind(weights);
    steps_ = make_private_steps({.plan = plan_,
                                 .config = config_,
                                 .communicator = communicator,
                                 .dataset = dataset_,
                                 .model = model_,
                                 .weights = weights,
                                 .keys = keys_,
                                 .watchdog = watchdog_,
                                 .context = kShape.positions,
                                 .microbatch_size = config_.runtime.constant_step_slots ? 1 : 4},
                                ledger_);
  }
  StepResult step(int64_t number) { return steps_->run(number, /*learning_rate=*/1); }
  int64_t charges() const { return ledger_.charges(); }
  int64_t rows_of_the_last_pass() const { return model_.offsets().empty() ? 0 : model_.offsets().back(); }
  double divisor() const { return plan_.expected_batch_size(); }
  // How far the weights have moved from the initial ones.
  std::vector<double> change() const {
    std::vector<double> result;
    for (size_t i = 0; i < weights.size(); ++i)
      result.push_back(static_cast<double>(weights[i]) - initial[i]);
    return result;
  }

  test::RecordingCommunicator communicator;
  const std::vector<float> initial = test::made_parameters(kShape);
  std::vector<float> weights;

 private:
  static plan::Config made_config(double rate, double noise_multiplier, bool constant_step_slots) {
    plan::Config config;
    config.runtime.constant_step_slots = constant_step_slots;
    if (constant_step_slots) config.privacy.dataset_size = 40;
    config.privacy.noise_multiplier = noise_multiplier;
    config.privacy.target_delta = 1e-5;
    config.privacy.sample_rate = rate;
    config.privacy.expected_batch_size = constant_step_slots ? 40 * rate : 1;
    config.privacy.steps = 5;
    config.optimizer.name = "sgd";
    return config;
  }
  static data::Dataset made_dataset(const std::filesystem::path& dir, int64_t records) {
    const auto tokenizer = data::make_byte_tokenizer();
    data::DatasetWriter writer(dir, *tokenizer);
    for (int64_t r = 0; r < records; ++r) writer.add("record " + std::to_string(r * 7919));
    writer.finish();
    return data::Dataset::open(dir);
  }

  testing::TemporaryFolder folder_;
  plan::Config config_;
  plan::PrivacyPlan plan_;
  data::Dataset dataset_;
  accounting::Ledger ledger_;
  model::Gpt2 model_;
  RunKeys keys_;
  Watchdog watchdog_;
  std::unique_ptr<Steps> steps_;
};

TEST(PrivateSteps, AnEmptyDrawIsChargedSummedAndReleasedLikeAnyOther) {
  // 40 records at 1e-6: under the fixed key every draw of the first run is empty; those of the second are
  // full.
  SmallRun empty(40, 1e-6, 1), full(40, 1, 1);
  for (SmallRun* run : {&empty, &full}) {
    run->communicator.calls.clear();
    for (int64_t step = 0; step < 3; ++step) {
      const std::vector<float> before = run->weights;
      EXPECT_EQ(run->step(step), StepResult::kDone);
      EXPECT_EQ(run->charges(), step + 1);
      EXPECT_NE(run->weights, before) << "no noise was released";
    }
  }
  EXPECT_EQ(empty.communicator.calls, full.communicator.calls);
}

TEST(PrivateSteps, AStepThatIsRepeatedAfterARestartDrawsAnew) {
  SmallRun run(40, 0.5, 1e-6);
  ASSERT_EQ(run.step(0), StepResult::kDone);
  const std::vector<double> first = run.change();
  run.start();
  ASSERT_EQ(run.step(0), StepResult::kDone);
  EXPECT_EQ(run.charges(), 2);
  std::vector<double> difference = run.change();
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= first[i];
  // One record in or out moves the sum by up to 1; the noise of a step has norm 1e-6 sqrt(P) = 1e-4.
  EXPECT_GT(test::l2(std::span<const double>(difference)), 0.1);
}

// With constant_step_slots a step goes on with passes over a made-up record; what it releases is what the
// drawn records gave, and the last pass has a whole context of rows, whatever was drawn.
TEST(PrivateSteps, PassesForNobodyChangeNothingThatIsReleased) {
  for (const double rate : {1e-6, 0.5, 1.0}) {
    SmallRun plain(40, rate, 1e-6), constant(40, rate, 1e-6, /*constant_step_slots=*/true);
    ASSERT_EQ(plain.step(0), StepResult::kDone);
    ASSERT_EQ(constant.step(0), StepResult::kDone);
    const std::vector<double> a = plain.change(), b = constant.change();
    // Sums are equal integers, divided by 1 and by the expected batch size; weights are floats of up to 8.
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i] * constant.divisor(), 1e-6 * (1 + constant.divisor())) << rate << " " << i;
    EXPECT_EQ(constant.communicator.calls, plain.communicator.calls);
    if (rate < 1) {
      EXPECT_EQ(constant.rows_of_the_last_pass(), kShape.positions) << rate;
    }
  }
}

TEST(PrivateSteps, TheStepPastTheBudgetDrawsNothingAndChargesNothing) {
  SmallRun run(10, 0.5, 1);
  for (int64_t step = 0; step < 5; ++step) ASSERT_EQ(run.step(step), StepResult::kDone);
  const std::vector<float> before = run.weights;
  EXPECT_EQ(run.step(5), StepResult::kBudgetExhausted);
  EXPECT_EQ(run.charges(), 5);
  EXPECT_EQ(run.weights, before);
}

TEST(RunKeys, EachProcessStartHasKeysOfItsOwn) {
  test::RecordingCommunicator communicator;
  const RunKeys first = make_run_keys(communicator, std::nullopt);
  const RunKeys second = make_run_keys(communicator, std::nullopt);
  EXPECT_NE(first.noise.words(), second.noise.words());
  EXPECT_NE(first.sampling.words(), second.sampling.words());
  EXPECT_NE(first.dropout.words(), second.dropout.words());
}

}  // namespace
}  // namespace dpfa::train
