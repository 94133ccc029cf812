// The private step: one charge and the same collectives whatever was drawn, and never the same draw twice.
#include "src/train/steps.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <sstream>

#include "src/data/sampler.h"
#include "tests/support/engine_oracle.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/scoped_environment.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::train {
namespace {

constexpr plan::Gpt2Shape kShape{
    .layers = 1, .width = 16, .heads = 2, .positions = 16, .vocab = 257, .tied_head = true};

// The rows of every forward pass while it lives, as the look-up of the token embedding shows them.
class PassRecorder {
 public:
  PassRecorder() {
    rows.clear();
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&note).needsInputs(true));
  }
  ~PassRecorder() { at::removeCallback(handle_); }
  PassRecorder(const PassRecorder&) = delete;
  PassRecorder& operator=(const PassRecorder&) = delete;

  inline static std::vector<int64_t> rows;

 private:
  static std::unique_ptr<at::ObserverContext> note(const at::RecordFunction& function) {
    if (std::string_view(function.name()) == "aten::index_select")
      rows.push_back(function.inputs()[2].toTensor().numel());
    return nullptr;
  }
  at::CallbackHandle handle_;
};

constexpr int64_t kDeclared = 40;  // dataset_size under constant_step_slots

// A run with `records` records, all shorter than the context, each drawn with probability `rate`; plain
// gradient descent with rate 1, so that the weights move by the released gradient.
class SmallRun {
 public:
  SmallRun(int64_t records, double rate, double noise_multiplier, bool constant_step_slots = false,
           const std::string& numerics = "exact")
      : config_(made_config(rate, noise_multiplier, constant_step_slots, numerics)),
        plan_(plan::PrivacyPlan::derive(config_.privacy, {}, kShape.parameter_count(), constant_step_slots)),
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
  static plan::Config made_config(double rate, double noise_multiplier, bool constant_step_slots,
                                  const std::string& numerics) {
    plan::Config config;
    config.runtime.constant_step_slots = constant_step_slots;
    if (constant_step_slots) config.privacy.dataset_size = kDeclared;
    config.privacy.numerics = numerics;
    config.privacy.noise_multiplier = noise_multiplier;
    config.privacy.target_delta = 1e-5;
    config.privacy.sample_rate = rate;
    config.privacy.expected_batch_size = constant_step_slots ? kDeclared * rate : 1;
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

std::string content_of(const std::filesystem::path& file) {
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

// How norms are measured is chosen by measurement, kept and printed: not when the first record is drawn.
TEST(PrivateSteps, TheChoiceOfNormMethodsDoesNotTellWhetherRecordsWereDrawn) {
  const testing::TemporaryFolder cache;
  testing::ScopedEnvironment environment;
  environment.set("DPFA_CACHE", cache.path().string());
  std::vector<std::string> printed, kept;
  for (const double rate : {1e-6, 1.0}) {  // every draw empty, every draw full
    ::testing::internal::CaptureStderr();
    SmallRun run(kDeclared, rate, 1, /*constant_step_slots=*/false, "fp32");
    for (int64_t step = 0; step < 3; ++step) EXPECT_EQ(run.step(step), StepResult::kDone);
    printed.push_back(::testing::internal::GetCapturedStderr());
    kept.push_back(content_of(cache.path() / "norm_methods.txt"));
  }
  EXPECT_NE(printed[0].find("gradient norms:"), std::string::npos) << printed[0];
  EXPECT_NE(kept[0], "");
  EXPECT_EQ(printed[1], printed[0]);
  EXPECT_EQ(kept[1], kept[0]);
}

// With constant_step_slots the passes of a step and the rows of each follow from what was declared, whatever
// there is and whatever is drawn of it.
TEST(PrivateSteps, PassesAndTheirRowsFollowFromPublicNumbersAlone) {
  for (const double rate : {1e-6, 0.5, 1.0}) {
    // Room for a neighbour of a data set of the declared size.
    const auto room = static_cast<size_t>(data::most_drawn(rate, kDeclared + 1, 1));
    for (const int64_t records : {int64_t{1}, kDeclared, kDeclared + 1, kDeclared + 20}) {
      SmallRun run(records, rate, 1, /*constant_step_slots=*/true);
      const PassRecorder passes;
      ASSERT_EQ(run.step(0), StepResult::kDone);
      EXPECT_EQ(PassRecorder::rows, std::vector<int64_t>(room, kShape.positions))
          << records << " records at " << rate;
    }
  }
  EXPECT_EQ(data::most_drawn(1, kDeclared + 1, 1), kDeclared + 1);
}

// A data set of the declared size and its neighbour with one record more are both used whole; what is further
// behind is not.
TEST(PrivateSteps, RecordsUpToOneMoreThanDeclaredAreUsed) {
  SmallRun plain(kDeclared + 1, 1, 1e-6), constant(kDeclared + 1, 1, 1e-6, true),
      more(kDeclared + 20, 1, 1e-6, true);
  for (SmallRun* run : {&plain, &constant, &more}) ASSERT_EQ(run->step(0), StepResult::kDone);
  const std::vector<double> a = plain.change(), b = constant.change(), c = more.change();
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_NEAR(a[i], b[i] * constant.divisor(), 1e-6 * (1 + constant.divisor())) << i;
    ASSERT_EQ(b[i], c[i]) << i;
  }
}

// What a step with passes for nobody releases is what the drawn records gave.
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
