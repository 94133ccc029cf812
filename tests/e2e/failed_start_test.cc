// What cannot start says why, once, with the code of its class, and leaves nothing behind.
#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

namespace fs = std::filesystem;
using FailedStart = Failures;

TEST_F(FailedStart, OnAConfigurationThatIsNotOneIsCodeTwo) {
  const struct {
    Words words;
    std::string says;
  } cases[] = {
      {{"--privacy.noise_multipler", "1"}, "did you mean privacy.noise_multiplier"},
      {{"--privacy.steps", "many"}, "privacy.steps"},
      {{"--privacy.sample_rate", "1.5"}, "privacy.sample_rate"},
      {{"--privacy.max_grad_norm", "0"}, "privacy.max_grad_norm"},
      {{"--privacy.max_grad_norm", "-1"}, "privacy.max_grad_norm"},
      {{"--privacy.target_epsilon", "3"}, "give one of them"},
      {{"--model.context", "0"}, "model.context = 0"},
      {{"--output.dir="}, "output.dir is missing"},
      {{"--data.train="}, "data.train is missing"},
      {{"--aggregation.mode", "masked"}, "needs aggregation.allow_list and aggregation.identity"},
      {{"--unknown"}, "unknown option"},
  };
  for (const auto& [words, says] : cases) expect_failure(train(words), 2, says);
  EXPECT_FALSE(fs::exists(run_));
}

TEST_F(FailedStart, OnSomethingThatThisBuildDoesNotHaveIsCodeSix) {
  expect_failure(train({"--privacy.clipping", "per_layer"}), 6, "not in this build");
  fs::create_directories(folder_ / "bert");
  write_text(folder_ / "bert/config.json", R"({"model_type": "bert"})");
  expect_failure(train({"--model.from", folder_ / "bert"}), 6, "bert");
  EXPECT_FALSE(fs::exists(run_));
}

TEST_F(FailedStart, OnAFileThatIsMissingOrBrokenIsCodeSeven) {
  expect_failure(dpfa_command({"train", "--config", folder_ / "absent.ini"}), 7, "absent.ini");
  expect_failure(train({"--data.train", folder_ / "absent"}), 7, "absent");
  expect_failure(train({"--model.from", folder_ / "absent"}), 7, "absent");

  fs::create_directories(folder_ / "model");
  write_text(
      folder_ / "model/config.json",
      R"({"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 12, "vocab_size": 257,
                 "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5})");
  for (const std::string& broken : Words{"", "no header", std::string("\xff\0\0\0\0\0\0\0{}", 10)}) {
    write_text(folder_ / "model/model.safetensors", broken);
    expect_failure(train({"--model.from", folder_ / "model"}), 7, "model.safetensors");
  }
  for (const auto& entry : fs::directory_iterator(folder_ / "train"))
    if (entry.path().extension() == ".tokens") fs::resize_file(entry.path(), entry.file_size() / 2);
  expect_failure(train(), 7, ".tokens");
  EXPECT_FALSE(fs::exists(run_));
}

TEST_F(FailedStart, OnAnOutputDirectoryThatExistsIsCodeTwoAndLeavesItAlone) {
  fs::create_directories(run_);
  expect_failure(train(), 2, "exists: choose another output.dir");
  EXPECT_TRUE(fs::is_empty(run_));
}

TEST_F(FailedStart, OnAWorldOfAnotherSizeThanAnnouncedIsCodeTwo) {
  expect_failure(on_ranks(2, train({"--runtime.expected_world_size", "3"})), 2,
                 "expects 3 ranks and MPI started 2");
  expect_failure(Words{"env", "OMPI_COMM_WORLD_SIZE=4"} + train(), 2, "the environment announces 4");
  EXPECT_FALSE(fs::exists(run_));
}

TEST_F(FailedStart, OfSeveralRanksIsToldByOneOfThem) {
  expect_failure(on_ranks(3, train({"--privacy.noise_multipler", "1"})), 2,
                 "did you mean privacy.noise_multiplier");
  expect_failure(on_ranks(3, train({"--data.train", folder_ / "absent"})), 7, "absent");
}

TEST_F(FailedStart, IsNoneWhereDeltaIsLargeForTheDeclaredDataset) {
  const Words declared = {"--privacy.sample_rate=", "--privacy.dataset_size", "64", "--privacy.target_delta",
                          "0.05"};
  const Ended ended = run_command(train(declared + Words{"--dry_run"}));
  EXPECT_EQ(ended.code, 0) << ended.errors;
  EXPECT_NE(ended.errors.find("warning: "), std::string::npos) << ended.errors;
  EXPECT_NE(ended.errors.find("delta"), std::string::npos) << ended.errors;
  EXPECT_NE(ended.output.find("epsilon"), std::string::npos) << ended.output;
  EXPECT_FALSE(fs::exists(run_));
}

}  // namespace
}  // namespace dpfa::testing
