// What a run refuses at its start, with the code and the sentence that it gives.
#include <csignal>

#include "tests/train/trainer_fixture.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using testing::made_records;
using testing::read_text;
using testing::resumed;
using testing::TrainerTest;
using testing::write_text;

class Refusal : public TrainerTest {
 protected:
  void expect(const RunOptions& options, int code, const std::string& words) {
    const auto [given, sentence] = failure_of(options);
    EXPECT_EQ(given, code) << sentence;
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
  }
  // A run with a checkpoint at step 4 that was lost in step 5.
  RunOptions lost_run() {
    RunOptions options{.config = config("run")};
    options.config.train.checkpoint_every = 2;
    options.config.privacy.reserve_steps = 8;
    EXPECT_TRUE(crashes(options, "sum", 6));
    return resumed(options);
  }
};

TEST_F(Refusal, OfKeysThatAreMissingIsAConfigurationErrorThatNamesThem) {
  RunOptions options{.config = config("run")};
  options.config.output.dir.clear();
  expect(options, 2, "output.dir is missing");
  options.config.data.train.clear();
  expect(options, 2, "data.train is missing");
  options.config = config("run");
  options.config.model.context = 0;
  expect(options, 2, "model.context = 0");
  options.config = config("run");
  options.config.data.eval = folder_ / "train";
  expect(options, 2, "data.eval_is_public");
  EXPECT_FALSE(fs::exists(run_dir("run")));
}

TEST_F(Refusal, OfAnExistingOutputDirectoryLeavesItAlone) {
  fs::create_directories(run_dir("run"));
  write_text(run_dir("run") / "precious", "content");
  expect({.config = config("run")}, 2, "exists: choose another output.dir");
  EXPECT_EQ(std::distance(fs::directory_iterator(run_dir("run")), fs::directory_iterator()), 1);
  EXPECT_EQ(read_text(run_dir("run") / "precious"), "content");
}

TEST_F(Refusal, OfDataThatIsMissingOrCutShortIsAnInputError) {
  RunOptions options{.config = config("run")};
  options.config.data.train = folder_ / "absent";
  expect(options, 7, "absent");
  for (const auto& entry : fs::directory_iterator(folder_ / "train"))
    if (entry.path().extension() == ".tokens") fs::resize_file(entry.path(), entry.file_size() - 2);
  options.config.data.train = folder_ / "train";
  expect(options, 7, ".tokens");
}

TEST_F(Refusal, OfAResumeWithoutALedgerSaysWhy) {
  fs::create_directories(run_dir("run"));
  expect({.config = config("run"), .resume = true}, 5, "has no ledger.jsonl");
}

TEST_F(Refusal, OfAnotherPlanDatasetOrStampIsAStateError) {
  RunOptions options = lost_run();
  RunOptions changed = options;
  changed.config.privacy.noise_multiplier = 0.9;
  expect(changed, 5, "privacy plan");
  changed = options;
  changed.config.privacy.clipping = "automatic";
  expect(changed, 5, "privacy plan");
  changed = options;
  testing::write_dataset(folder_ / "other", made_records(64));  // the same records under another id
  changed.config.data.train = folder_ / "other";
  expect(changed, 5, "belongs to dataset");
  changed = options;
  changed.insecure_seed = 1;
  expect(changed, 5, "NOT PRIVATE options");
  const auto charges = testing::charges_of(run_dir("run")).size();
  EXPECT_EQ(run(options), Outcome::kFinished);
  EXPECT_GT(testing::charges_of(run_dir("run")).size(), charges);
}

TEST_F(Refusal, OfALedgerThatWasAlteredIsAStateError) {
  const RunOptions options = lost_run();
  const fs::path path = run_dir("run") / "ledger.jsonl";
  const std::string whole = read_text(path);
  std::string altered = whole;
  altered.replace(altered.find("\"step\":1"), 8, "\"step\":9");
  write_text(path, altered);
  expect(options, 5, "is not intact");
  EXPECT_EQ(read_text(path), altered);
}

TEST_F(Refusal, OfALedgerThatLostItsLastLinesComesFromTheCheckpoint) {
  const RunOptions options = lost_run();
  const fs::path path = run_dir("run") / "ledger.jsonl";
  const std::string whole = read_text(path);
  size_t end = 0;
  for (int line = 0; line < 4; ++line) end = whole.find('\n', end) + 1;  // open, start and two charges
  write_text(path, whole.substr(0, end));
  expect(options, 5, "of a ledger that is not the one in");
}

TEST_F(Refusal, OfTheCheckpointOfAnotherRunOrPlanIsAStateError) {
  const RunOptions options = lost_run();
  RunOptions other{.config = config("other")};
  ASSERT_EQ(run(other), Outcome::kFinished);
  const fs::path ours = run_dir("run") / "checkpoints", theirs = run_dir("other") / "checkpoints";
  fs::copy(theirs / "step_00000008", ours / "step_00000008", fs::copy_options::recursive);
  expect(options, 5, "another privacy plan");
  other.config = config("alike");
  other.config.privacy.reserve_steps = 8;
  ASSERT_EQ(run(other), Outcome::kFinished);
  fs::remove_all(ours / "step_00000008");
  fs::copy(run_dir("alike") / "checkpoints" / "step_00000008", ours / "step_00000008",
           fs::copy_options::recursive);
  expect(options, 5, "of a ledger that is not the one in");
}

TEST_F(Refusal, OfAnotherModelOrOptimizerIsAStateError) {
  const RunOptions options = lost_run();
  RunOptions changed = options;
  changed.config.model.heads = 4;
  expect(changed, 5, "other dimensions");
  changed = options;
  changed.config.optimizer.name = "sgd";
  expect(changed, 5, "another optimizer");
}

TEST_F(Refusal, OfACheckpointThatIsAllDamagedIsAStateErrorThatChargesNothing) {
  const RunOptions options = lost_run();
  const auto charges = testing::charges_of(run_dir("run")).size();
  for (const auto& entry : fs::directory_iterator(run_dir("run") / "checkpoints"))
    fs::remove(entry.path() / "model.safetensors");
  expect(options, 5, "no checkpoint of");
  EXPECT_EQ(testing::charges_of(run_dir("run")).size(), charges);
}

}  // namespace
}  // namespace dpfa::train
