// Checkpoints appear complete or not at all, and nothing damaged or foreign is ever loaded.
#include "src/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <numeric>
#include <set>

#include "accounting/ledger_verify.h"
#include "src/base/error.h"
#include "src/data/tokenizer.h"
#include "src/model/safetensors.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::read_text;
using testing::write_text;

const plan::Gpt2Shape kShape{1, 8, 2, 4, 257, true};

FlatBuffer<float> counting(int64_t size, float first) {
  FlatBuffer<float> values(size);
  std::iota(values.span().begin(), values.span().end(), first);
  return values;
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : weights_(counting(kShape.parameter_count(), 0.25f)), ledger_(make_ledger()) {
    fs::create_directories(tokenizer_dir_);
    data::make_byte_tokenizer()->save(tokenizer_dir_);
    state_.first = counting(kShape.parameter_count(), 1e-3f);
    state_.second = counting(kShape.parameter_count(), 7);
  }

  static accounting::Ledger make_ledger() {
    accounting::Ledger ledger = accounting::Ledger::in_memory({{"run_id", "0123456789abcdef"}});
    ledger.start({{"world_size", 1}});
    return ledger;
  }

  void write(int64_t step, int64_t keep = 9) {
    state_.updates = step;
    weights_.span()[0] = static_cast<float>(step);
    write_checkpoint(run_,
                     {.step = step,
                      .shape = kShape,
                      .weights = weights_.span(),
                      .optimizer = &state_,
                      .tokenizer_dir = tokenizer_dir_,
                      .plan_digest = "of the plan",
                      .run_id = "0123456789abcdef",
                      .ledger = &ledger_,
                      .world_size = 3},
                     keep);
  }
  fs::path dir(int64_t step) const { return run_ / "checkpoints" / ("step_0000000" + std::to_string(step)); }
  std::set<std::string> names(const fs::path& folder) const {
    std::set<std::string> result;
    for (const auto& entry : fs::directory_iterator(folder)) result.insert(entry.path().filename());
    return result;
  }
  // The step of the checkpoint that a resume would take, -1 where there is none.
  int64_t found() {
    skipped_.clear();
    const auto head = find_checkpoint(run_, skipped_);
    return head ? head->step : -1;
  }
  void load(int64_t step, const plan::Gpt2Shape& shape, OptimizerState& state) {
    FlatBuffer<float> weights(shape.parameter_count());
    load_checkpoint(
        {.dir = dir(step), .step = step, .plan_digest = "", .ledger_lines = 0, .ledger_digest = ""}, shape,
        weights.span(), state);
  }

  testing::TemporaryFolder folder_;
  const fs::path run_ = folder_ / "run", tokenizer_dir_ = folder_ / "tokenizer";
  FlatBuffer<float> weights_;
  OptimizerState state_;
  accounting::Ledger ledger_;
  std::string skipped_;
};

TEST_F(CheckpointTest, GivesBackWeightsMomentsAndUpdatesBitForBit) {
  write(5);
  FlatBuffer<float> weights(kShape.parameter_count());
  OptimizerState state{counting(kShape.parameter_count(), 0), counting(kShape.parameter_count(), 0), 0};
  const auto head = find_checkpoint(run_, skipped_);
  ASSERT_TRUE(head.has_value());
  load_checkpoint(*head, kShape, weights.span(), state);
  const auto equal = [](const FlatBuffer<float>& a, const FlatBuffer<float>& b) {
    return std::equal(a.span().begin(), a.span().end(), b.span().begin(), b.span().end());
  };
  EXPECT_TRUE(equal(weights, weights_));
  EXPECT_TRUE(equal(state.first, state_.first));
  EXPECT_TRUE(equal(state.second, state_.second));
  EXPECT_EQ(state.updates, 5);
  EXPECT_EQ(head->plan_digest, "of the plan");
  EXPECT_EQ(head->ledger_lines, 2);
  EXPECT_EQ(head->ledger_digest, ledger_.digest());
  EXPECT_EQ(skipped_, "");
}

TEST_F(CheckpointTest, HoldsNothingButModelOptimizerTokenizerAndManifest) {
  write(1);
  EXPECT_EQ(names(dir(1)), (std::set<std::string>{"config.json", "manifest.json", "model.safetensors",
                                                  "optimizer.safetensors", "tokenizer.dpfa.json"}));
  const json manifest = json::parse(read_text(dir(1) / "manifest.json"));
  std::set<std::string> keys;
  for (const auto& [key, value] : manifest.items()) keys.insert(key);
  EXPECT_EQ(keys, (std::set<std::string>{"files", "format", "ledger", "plan_digest", "run_id", "step",
                                         "world_size"}));
  EXPECT_EQ(manifest.at("world_size"), 3);
  for (const auto& [name, file] : manifest.at("files").items())
    EXPECT_EQ(file.at("size"), fs::file_size(dir(1) / name)) << name;
  EXPECT_EQ(manifest.at("files").size(), 4u);
}

TEST_F(CheckpointTest, IsNotTakenWhereOneByteOfAnyFileDiffers) {
  for (const std::string name :
       {"config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.dpfa.json"}) {
    write(1);
    write(2);
    std::string text = read_text(dir(2) / name);
    text.back() ^= 1;
    write_text(dir(2) / name, text);
    EXPECT_EQ(found(), 1) << name;
    EXPECT_NE(skipped_.find("step_00000002: the hash of " + name + " differs"), std::string::npos)
        << skipped_;
  }
}

TEST_F(CheckpointTest, IsNotTakenWhereAFileIsTruncatedOrMissing) {
  for (const bool missing : {false, true}) {
    for (const std::string name : {"manifest.json", "model.safetensors"}) {
      write(1);
      write(2);
      if (missing)
        fs::remove(dir(2) / name);
      else
        fs::resize_file(dir(2) / name, fs::file_size(dir(2) / name) / 2);
      EXPECT_EQ(found(), 1) << name;
      EXPECT_NE(skipped_.find(name), std::string::npos) << skipped_;
    }
  }
}

TEST_F(CheckpointTest, IsNotTakenUnderTheNameOfAnotherStep) {
  write(1);
  fs::copy(dir(1), dir(7), fs::copy_options::recursive);
  EXPECT_EQ(found(), 1);
  EXPECT_NE(skipped_.find("step_00000007"), std::string::npos) << skipped_;
}

TEST_F(CheckpointTest, ThatIsDamagedAloneIsAStateErrorAndNoneIsNone) {
  EXPECT_EQ(found(), -1);
  write(1);
  fs::remove(dir(1) / "manifest.json");
  EXPECT_THROW(found(), StateError);
  write(1);  // a resumed run that comes to the same step replaces it
  EXPECT_EQ(found(), 1);
}

TEST_F(CheckpointTest, OlderThanTheNewestToKeepIsRemovedAndLatestIsTheNewest) {
  for (int64_t step = 1; step <= 4; ++step) {
    write(step, /*keep=*/2);
    EXPECT_EQ(fs::read_symlink(run_ / "latest"), fs::path("checkpoints") / dir(step).filename());
  }
  EXPECT_EQ(names(run_ / "checkpoints"), (std::set<std::string>{"step_00000003", "step_00000004"}));
}

TEST_F(CheckpointTest, ThatACrashCutOffIsInvisibleAndGoesWithTheNext) {
  write(1);
  const fs::path partial = run_ / "checkpoints" / "partial_step_00000002";
  fs::copy(dir(1), partial, fs::copy_options::recursive);
  fs::remove(partial / "manifest.json");
  EXPECT_EQ(found(), 1);
  EXPECT_EQ(skipped_, "");
  // Nor does it count as a checkpoint whose ledger cannot be told.
  write_text(run_ / "ledger.jsonl", ledger_.text());
  EXPECT_EQ(accounting::verify_ledger(run_).reason.find("partial"), std::string::npos);
  write(3);
  EXPECT_EQ(names(run_ / "checkpoints"), (std::set<std::string>{"step_00000001", "step_00000003"}));
}

TEST_F(CheckpointTest, ThatCannotBeWrittenLeavesWhatWasThereAndNothingElse) {
  write(1);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    write(2);
  } catch (const IoError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("model.safetensors"), std::string::npos) << message;
  EXPECT_EQ(names(run_ / "checkpoints"), (std::set<std::string>{"step_00000001"}));
  EXPECT_EQ(found(), 1);
}

TEST_F(CheckpointTest, OfAnotherOptimizerIsRefused) {
  write(1);
  OptimizerState without, half;
  half.first = counting(kShape.parameter_count(), 0);
  EXPECT_THROW(load(1, kShape, without), StateError);
  EXPECT_THROW(load(1, kShape, half), StateError);
  state_.second = FlatBuffer<float>();
  write(2);
  OptimizerState whole{counting(kShape.parameter_count(), 0), counting(kShape.parameter_count(), 0), 0};
  EXPECT_THROW(load(2, kShape, whole), StateError);
  load(2, kShape, half);
  EXPECT_EQ(half.updates, 2);
}

TEST_F(CheckpointTest, OfAnotherModelIsRefusedAlsoWhereAllSizesAgree) {
  write(1);
  plan::Gpt2Shape other = kShape;
  other.heads = 4;
  ASSERT_EQ(other.parameter_count(), kShape.parameter_count());
  OptimizerState state{counting(kShape.parameter_count(), 0), counting(kShape.parameter_count(), 0), 0};
  EXPECT_THROW(load(1, other, state), StateError);
}

TEST_F(CheckpointTest, WithoutACountOfUpdatesIsMalformed) {
  for (const std::string count : {"", "-1", "many"}) {
    write(1);
    const std::vector<model::TensorToWrite> tensors = {
        {"first_moment", model::DType::kF32, {state_.first.size()}, std::as_bytes(state_.first.span())},
        {"second_moment", model::DType::kF32, {state_.second.size()}, std::as_bytes(state_.second.span())}};
    const std::map<std::string, std::string> metadata =
        count.empty() ? std::map<std::string, std::string>{}
                      : std::map<std::string, std::string>{{"updates", count}};
    model::write_safetensors(dir(1) / "optimizer.safetensors", tensors, metadata);
    OptimizerState state{counting(kShape.parameter_count(), 0), counting(kShape.parameter_count(), 0), 0};
    EXPECT_THROW(load(1, kShape, state), IoError) << count;
  }
}

}  // namespace
}  // namespace dpfa::train
