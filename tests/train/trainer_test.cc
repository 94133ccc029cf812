// What a run charges, draws and lets out, from its first step to a resume.
#include "src/train/trainer.h"

#include <csignal>
#include <set>

#include "accounting/ledger_verify.h"
#include "src/base/flat_buffer.h"
#include "src/model/gpt2.h"
#include "src/model/gpt2_io.h"
#include "tests/support/scoped_environment.h"
#include "tests/train/trainer_fixture.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::charges_of;
using testing::made_records;
using testing::read_json_lines;
using testing::read_text;
using testing::resumed;
using testing::SumRecorder;
using testing::TrainerTest;

using PrivateRun = TrainerTest;
using ResumedRun = TrainerTest;
using SeededRun = TrainerTest;
using StoppedRun = TrainerTest;

std::vector<int64_t> numbers(const std::vector<json>& lines, const char* key) {
  std::vector<int64_t> result;
  for (const json& line : lines) result.push_back(line.at(key));
  return result;
}

TEST_F(PrivateRun, ChargesEachStepOnceWhateverTheNumberOfMicrobatches) {
  RunOptions options{.config = config("run")};
  options.config.runtime.microbatch_size = 1;
  ASSERT_EQ(run(options), Outcome::kFinished);
  const auto charges = charges_of(run_dir("run"));
  const std::vector<int64_t> eight = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(numbers(charges, "step"), eight);
  EXPECT_EQ(numbers(charges, "draw"), eight);
  EXPECT_TRUE(accounting::verify_ledger(run_dir("run")).valid);
}

TEST_F(PrivateRun, HasEachChargeOnDiskBeforeItsSumLeavesTheProcess) {
  SumRecorder recorder;
  int64_t sums = 0;
  recorder.at_call = [&](const std::string& call) {
    if (call != "sum") return;
    EXPECT_EQ(static_cast<int64_t>(charges_of(run_dir("run")).size()), ++sums);
  };
  ASSERT_EQ(run({.config = config("run")}, recorder), Outcome::kFinished);
  EXPECT_EQ(sums, 8);
}

// numerics = auto has no choice where layers are recomputed: nothing is measured and no slack is paid.
TEST_F(PrivateRun, WithNumericsAutoIsExactWhereItRecomputesItsLayers) {
  testing::ScopedEnvironment environment;
  environment.set("DPFA_CACHE", (folder_ / "cache").string());
  RunOptions options{.config = config("run")};
  options.config.privacy.numerics = "auto";
  options.config.runtime.recompute = "layer";
  ASSERT_EQ(run(options), Outcome::kFinished);
  EXPECT_EQ(plan::load_config(run_dir("run") / "config.ini", {}).privacy.numerics, "exact");
  EXPECT_FALSE(fs::exists(folder_ / "cache"));
}

// Whichever way the measurement went: the resolved configuration is one that can be given.
TEST_F(PrivateRun, WithNumericsAutoGoesOnWithItsResolvedConfiguration) {
  RunOptions options{.config = config("run")};
  options.config.privacy.numerics = "auto";
  options.config.runtime.norm_method = "direct";
  ASSERT_TRUE(crashes(options, "sum", 3));
  options.config = plan::load_config(run_dir("run") / "config.ini", {});
  EXPECT_NE(options.config.privacy.numerics, "auto");
  EXPECT_EQ(failure_of(resumed(options)), (std::pair<int, std::string>()));
}

TEST_F(PrivateRun, ChargesAndStepsOnEmptyDrawsAsOnAnyOther) {
  RunOptions options{.config = config("run")};
  options.config.privacy.sample_rate = 1e-9;  // a draw of one of 64 records in 8 steps has probability 5e-7
  SumRecorder recorder;
  ASSERT_EQ(run(options, recorder), Outcome::kFinished);
  ASSERT_EQ(recorder.sums.size(), 8u);
  for (const auto& sum : recorder.sums)
    EXPECT_EQ(std::set<int32_t>(sum.begin(), sum.end()), std::set<int32_t>{0});
  EXPECT_EQ(charges_of(run_dir("run")).size(), 8u);
  EXPECT_EQ(read_json_lines(run_dir("run") / "metrics.jsonl").size(), 8u);
}

TEST_F(PrivateRun, WritesNothingThatDependsOnTheRecordsButWeights) {
  testing::write_dataset(folder_ / "other", made_records(40, /*series=*/1));
  std::vector<std::string> metrics;
  std::vector<json> ledger;
  for (const std::string data : {"train", "other"}) {
    RunOptions options{.config = config("on_" + data), .insecure_seed = 3};
    options.config.data.train = folder_ / data;
    ASSERT_EQ(run(options), Outcome::kFinished);
    metrics.push_back(read_text(run_dir("on_" + data) / "metrics.jsonl"));
    auto lines = read_json_lines(run_dir("on_" + data) / "ledger.jsonl");
    for (json& line : lines)
      for (const char* other : {"run_id", "dataset_id", "id", "digest", "prev", "state"}) line.erase(other);
    ledger.push_back(lines);
  }
  EXPECT_EQ(metrics[0], metrics[1]);
  EXPECT_EQ(ledger[0], ledger[1]);
  EXPECT_NE(weights_of(run_dir("on_train")), weights_of(run_dir("on_other")));
}

TEST_F(PrivateRun, HasMetricsOfPublicFieldsOnly) {
  testing::write_dataset(folder_ / "public", made_records(5, /*series=*/2));
  const auto keys_of = [&](const std::string& name, std::optional<uint64_t> seed, bool debug) {
    RunOptions options{.config = config(name), .insecure_seed = seed, .debug_nonprivate = debug};
    options.config.data.eval = folder_ / "public";
    options.config.data.eval_is_public = true;
    options.config.train.eval_every = 2;
    EXPECT_EQ(run(options), Outcome::kFinished);
    std::set<std::string> keys;
    for (const json& line : read_json_lines(run_dir(name) / "metrics.jsonl"))
      for (const auto& [key, value] : line.items()) keys.insert(key);
    return keys;
  };
  std::set<std::string> keys = {"charges", "epsilon", "eval_loss", "learning_rate", "step"};
  EXPECT_EQ(keys_of("run", {}, false), keys);
  keys.erase("epsilon");
  EXPECT_EQ(keys_of("debug", {}, true), keys) << "a run that is stamped NOT PRIVATE states no epsilon";
  EXPECT_EQ(keys_of("seed", 3, false), keys) << "a run that is stamped NOT PRIVATE states no epsilon";
}

TEST_F(PrivateRun, IsTheSameWithAndWithoutARecordWhoseLossIsNotFinite) {
  // The letter z stands in the last record alone, and its row of the token table is not a number.
  auto records = made_records(64);
  testing::write_dataset(folder_ / "without", records);
  records.push_back("zzz");
  testing::write_dataset(folder_ / "with", records);
  const plan::Gpt2Shape shape{1, 16, 2, 12, 257, /*tied_head=*/false};
  FlatBuffer<float> weights(shape.parameter_count());
  model::initialise_gpt2(shape, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), weights.span());
  std::fill_n(weights.span().begin() + 'z' * shape.width, shape.width,
              std::numeric_limits<float>::quiet_NaN());
  fs::create_directories(folder_ / "model");
  model::write_gpt2(folder_ / "model", shape, weights.span());
  std::vector<SumRecorder> recorders(2);
  for (const bool poisoned : {false, true}) {
    const std::string name = poisoned ? "with" : "without";
    RunOptions options{.config = config("on_" + name), .insecure_seed = 5};
    options.config.data.train = folder_ / name;
    options.config.model.from = folder_ / "model";
    options.config.model.context = 0;
    options.config.privacy.sample_rate = 1;  // every record in every step
    ASSERT_EQ(run(options, recorders[poisoned]), Outcome::kFinished);
  }
  EXPECT_EQ(recorders[0].sums, recorders[1].sums);
  EXPECT_EQ(recorders[0].calls, recorders[1].calls);
  EXPECT_EQ(weights_of(run_dir("on_without")), weights_of(run_dir("on_with")));
}

TEST_F(ResumedRun, ChargesAgainAndNeverLessOnDrawsThatNoStepHadBefore) {
  RunOptions options{.config = config("run")};
  options.config.train.checkpoint_every = 2;
  options.config.privacy.reserve_steps = 8;
  // Step 5 is charged and its sum lost; then step 4 of the next start; then the run ends.
  ASSERT_TRUE(crashes(options, "sum", 6));
  EXPECT_EQ(charges_of(run_dir("run")).size(), 6u);
  ASSERT_TRUE(crashes(resumed(options), "sum", 1));
  EXPECT_EQ(charges_of(run_dir("run")).size(), 7u);
  ASSERT_EQ(run(resumed(options)), Outcome::kFinished);
  const auto charges = charges_of(run_dir("run"));
  EXPECT_EQ(numbers(charges, "step"), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 4, 4, 5, 6, 7}));
  const auto draws = numbers(charges, "draw");
  for (size_t i = 1; i < draws.size(); ++i) EXPECT_GT(draws[i], draws[i - 1]);
  const auto report = accounting::verify_ledger(run_dir("run"));
  EXPECT_TRUE(report.valid) << report.reason;
  EXPECT_EQ(report.steps, 11);
}

// Before and behind every sum, and at every stage of a checkpoint.
TEST_F(ResumedRun, HasChargedEverySumAtWhicheverCollectiveItEnded) {
  const auto options_of = [&](const std::string& name) {
    RunOptions options{.config = config(name)};
    options.config.privacy.steps = 2;
    options.config.privacy.reserve_steps = 2;
    options.config.train.checkpoint_every = 1;
    return options;
  };
  SumRecorder whole;
  ASSERT_EQ(run(options_of("whole"), whole), Outcome::kFinished);
  std::set<std::pair<size_t, size_t>> reached;
  for (int64_t last = 1; last <= static_cast<int64_t>(whole.calls.size()); ++last) {
    const RunOptions options = options_of("run" + std::to_string(last));
    SumRecorder before, after;
    ASSERT_TRUE(crashes(options, "any", last, before));
    const fs::path dir = run_dir("run" + std::to_string(last));
    if (!fs::exists(dir / "ledger.jsonl")) {
      EXPECT_TRUE(before.sums.empty());
      continue;
    }
    const size_t charged = charges_of(dir).size();
    EXPECT_GE(charged, before.sums.size()) << "collective " << last;
    reached.emplace(charged, before.sums.size());
    EXPECT_EQ(run(resumed(options), after), Outcome::kFinished) << "collective " << last;
    EXPECT_EQ(charges_of(dir).size(), charged + after.sums.size());
    const auto report = accounting::verify_ledger(dir);
    EXPECT_TRUE(report.valid) << report.reason;
  }
  // Before the first charge; after each charge, with its sum and without.
  EXPECT_EQ(reached.size(), 5u);
}

TEST_F(ResumedRun, DrawsOtherRecordsThanTheStepThatItRepeats) {
  RunOptions options{.config = config("run"), .insecure_seed = 9};  // the keys at least are the same
  options.config.train.checkpoint_every = 2;
  options.config.privacy.reserve_steps = 8;
  SumRecorder before, after;
  ASSERT_TRUE(crashes(options, "sum", 3, before));
  ASSERT_TRUE(crashes(resumed(options), "sum", 1, after));
  // Same weights, same keys: an equal sum would mean an equal draw.
  EXPECT_NE(after.sums.at(0), before.sums.at(2));
}

TEST_F(ResumedRun, HasKeysThatNoStartHadBefore) {
  RunOptions options{.config = config("run")};
  options.config.train.checkpoint_every = 2;
  ASSERT_TRUE(crashes(options, "max", 3));
  fs::copy(run_dir("run"), run_dir("copy"), fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  RunOptions copy = resumed(options);
  copy.config.output.dir = run_dir("copy");
  // Both repeat step 2 from the same weights under the same draw number. Two independent draws of 64 records
  // at rate 1/4 are equal with probability (5/8)^64 = 1e-13.
  SumRecorder recorder;
  ASSERT_TRUE(crashes(resumed(options), "sum", 1, recorder));
  ASSERT_TRUE(crashes(copy, "sum", 1, recorder));
  EXPECT_NE(recorder.sums.at(0), recorder.sums.at(1));
}

TEST_F(ResumedRun, BeginsAtTheStartWhereNoCheckpointWasWritten) {
  RunOptions options{.config = config("run")};
  options.config.privacy.reserve_steps = 3;
  ASSERT_TRUE(crashes(options, "sum", 3));
  ASSERT_EQ(run(resumed(options)), Outcome::kFinished);
  EXPECT_EQ(numbers(charges_of(run_dir("run")), "step"),
            (std::vector<int64_t>{0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(ResumedRun, TakesThePreviousCheckpointWithAWarningWhereTheNewestIsDamaged) {
  RunOptions options{.config = config("run")};
  options.config.train.checkpoint_every = 2;
  options.config.privacy.reserve_steps = 8;
  ASSERT_TRUE(crashes(options, "max", 6));
  const fs::path newest = run_dir("run") / "checkpoints" / "step_00000004" / "model.safetensors";
  fs::resize_file(newest, fs::file_size(newest) - 1);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run(resumed(options)), Outcome::kFinished);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("warning: skipped damaged checkpoints: step_00000004"), std::string::npos) << said;
  EXPECT_NE(said.find("resumed at step 2 of 8"), std::string::npos) << said;
  EXPECT_EQ(numbers(charges_of(run_dir("run")), "step"),
            (std::vector<int64_t>{0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7}));
}

TEST_F(ResumedRun, StopsAtItsBudgetWithAValidCheckpointUnlessStepsWereReserved) {
  for (const int64_t reserve : {0, 3}) {
    const std::string name = "reserve_" + std::to_string(reserve);
    RunOptions options{.config = config(name)};
    options.config.privacy.noise_multiplier.reset();
    options.config.privacy.target_epsilon = 3;
    options.config.privacy.reserve_steps = reserve;
    options.config.train.checkpoint_every = 2;
    ASSERT_TRUE(crashes(options, "sum", 6));  // six charges, two of them lost
    EXPECT_EQ(run(resumed(options)), reserve == 0 ? Outcome::kBudgetExhausted : Outcome::kFinished);
    const auto report = accounting::verify_ledger(run_dir(name));
    EXPECT_TRUE(report.valid) << report.reason;
    EXPECT_LE(report.epsilon_charged, 3);
    EXPECT_EQ(report.steps, reserve == 0 ? 8 : 10);
    EXPECT_EQ(fs::read_symlink(run_dir(name) / "latest").filename(),
              reserve == 0 ? "step_00000006" : "step_00000008");
  }
  // Starting it once more releases nothing more.
  RunOptions again{.config = config("reserve_0"), .resume = true};
  again.config.privacy.noise_multiplier.reset();
  again.config.privacy.target_epsilon = 3;
  EXPECT_EQ(run(again), Outcome::kBudgetExhausted);
  EXPECT_EQ(charges_of(run_dir("reserve_0")).size(), 8u);
}

struct Rule {
  std::string name, optimizer;
  double momentum;
  bool enabled;
};

TEST_F(SeededRun, ResumedHalfWayIsByteEqualToOneWithoutAStop) {
  for (const Rule& rule : {Rule{"adamw", "adamw", 0, true}, Rule{"sgd", "sgd", 0.9, true},
                           Rule{"baseline", "adamw", 0, false}}) {
    const auto options_of = [&](const std::string& name) {
      RunOptions options{.config = config(rule.name + name), .insecure_seed = 17};
      options.config.privacy.steps = 20;
      options.config.privacy.enabled = rule.enabled;
      options.config.model.dropout = 0.1;
      options.config.optimizer.name = rule.optimizer;
      options.config.optimizer.momentum = rule.momentum;
      options.config.train.checkpoint_every = 10;
      return options;
    };
    ASSERT_EQ(run(options_of("_whole")), Outcome::kFinished);
    const RunOptions halves = options_of("_halves");
    ASSERT_TRUE(crashes(halves, "max", 11));  // step 10, before its charge
    ASSERT_EQ(run(resumed(halves)), Outcome::kFinished);
    EXPECT_EQ(weights_of(run_dir(rule.name + "_whole")), weights_of(run_dir(rule.name + "_halves")))
        << rule.name;
    EXPECT_EQ(moments_of(run_dir(rule.name + "_whole")), moments_of(run_dir(rule.name + "_halves")))
        << rule.name;
  }
}

TEST_F(SeededRun, WithDropoutDoesNotDependOnTheMicrobatchSize) {
  std::vector<std::string> weights;
  for (const int64_t slots : {1, 3, 8, 0}) {
    const std::string name = "slots_" + std::to_string(slots);
    RunOptions options{.config = config(name), .insecure_seed = 21};
    options.config.model.dropout = 0.2;
    options.config.runtime.microbatch_size = slots;
    ASSERT_EQ(run(options), Outcome::kFinished);
    weights.push_back(weights_of(run_dir(name)));
    EXPECT_EQ(weights.back(), weights.front()) << name;
  }
  RunOptions other{.config = config("no_dropout"), .insecure_seed = 21};
  ASSERT_EQ(run(other), Outcome::kFinished);
  EXPECT_NE(weights_of(run_dir("no_dropout")), weights.front());
}

TEST_F(StoppedRun, DiscardsThePartialStepUnchargedAndGoesOnAsIfItHadNotStopped) {
  RunOptions whole{.config = config("whole"), .insecure_seed = 4},
      stopped{.config = config("stopped"), .insecure_seed = 4};
  ASSERT_EQ(run(whole), Outcome::kFinished);
  for (const int signal : {SIGUSR1, SIGTERM}) {
    SumRecorder recorder;
    recorder.at_call = [&, steps = 0](const std::string& call) mutable {
      if (call == "sum" && ++steps == 3) raise(signal);
    };
    ASSERT_EQ(run(stopped, recorder), Outcome::kStopped);
    stopped.resume = true;
  }
  EXPECT_EQ(numbers(charges_of(run_dir("stopped")), "step"), (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(fs::read_symlink(run_dir("stopped") / "latest").filename(), "step_00000006");
  ASSERT_EQ(run(stopped), Outcome::kFinished);
  EXPECT_EQ(weights_of(run_dir("stopped")), weights_of(run_dir("whole")));
  EXPECT_EQ(charges_of(run_dir("stopped")).size(), 8u);
}

TEST_F(StoppedRun, ThatWasAskedDuringSetUpWritesACheckpointBeforeItsFirstStep) {
  SumRecorder recorder;
  recorder.at_call = [](const std::string& call) {
    if (call == "gather") raise(SIGUSR1);
  };
  ASSERT_EQ(run({.config = config("run")}, recorder), Outcome::kStopped);
  EXPECT_TRUE(charges_of(run_dir("run")).empty());
  EXPECT_EQ(fs::read_symlink(run_dir("run") / "latest").filename(), "step_00000000");
}

}  // namespace
}  // namespace dpfa::train
