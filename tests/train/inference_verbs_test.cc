// generate, eval, export and audit exposure as a user starts them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "accounting/ledger.h"
#include "src/data/synthesis.h"
#include "src/data/tokenizer.h"
#include "src/model/gpt2.h"
#include "src/model/gpt2_io.h"
#include "src/plan/plan.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

namespace dpfa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::read_text;
using testing::run_program;
using testing::TemporaryFolder;

const plan::Gpt2Shape kShape = {1, 16, 2, 64, 257, true};

// RUN/checkpoints/step_00000001 with an untrained byte model, RUN/latest, and synthetic data beside it.
class Verbs : public ::testing::Test {
 protected:
  Verbs() {
    fs::create_directories(run() / "checkpoints/step_00000001");
    fs::create_directory_symlink("checkpoints/step_00000001", run() / "latest");
    std::vector<float> weights(kShape.parameter_count());
    model::initialise_gpt2(kShape, RootKey::from_insecure_seed(1).stream(Purpose::kInit), weights);
    const auto tokenizer = data::make_byte_tokenizer();
    model::write_gpt2(run() / "latest", kShape, weights, tokenizer->end_of_text());
    tokenizer->save(run() / "latest");
    data::write_synthetic_records(data::synthesize_records(80, 4, 1), dir_ / "data");
  }
  fs::path run() const { return dir_ / "run"; }
  std::string checkpoint() const { return " --checkpoint " + (run() / "latest").string(); }
  std::string path(const char* name) const { return (dir_ / name).string(); }
  void expect_exit(const std::string& words, int code) const {
    const auto outcome = run_program(words + " 2>&1");
    EXPECT_EQ(outcome.exit_code, code) << words << "\n" << outcome.output;
  }
  // A ledger of one charged step, private or not.
  void write_ledger(bool is_private) const {
    plan::PrivacyConfig config;
    config.enabled = is_private;
    if (is_private) config.noise_multiplier = 1;
    config.target_delta = 1e-5;
    config.sample_rate = 0.01;
    config.expected_batch_size = 8;
    config.steps = 1;
    const auto plan = plan::PrivacyPlan::derive(config, {}, kShape.parameter_count());
    auto ledger = accounting::Ledger::create(
        run() / "ledger.jsonl",
        {{"format", "dpfa-ledger"},
         {"run_id", std::string(32, 'a')},
         {"dataset_id", std::string(32, 'b')},
         {"privacy_unit", "record"},
         {"relation", "add_or_remove_one"},
         {"plan", plan.to_json()},
         {"plan_digest", plan.digest()},
         {"private", is_private},
         {"stamps", is_private ? json::array() : json::array({"privacy.enabled = false"})}});
    ledger.start({{"world_size", 1}, {"noise", "after_sum"}});
    if (is_private) ledger.charge(0, 0, plan.to_json().at("event"));
    const json anchor = {{"lines", ledger.lines()}, {"digest", ledger.digest()}};
    testing::write_text(run() / "latest/manifest.json", json{{"ledger", anchor}}.dump());
  }

  TemporaryFolder dir_;
};

TEST_F(Verbs, GenerateIsAFunctionOfTheSeed) {
  const std::string words = "generate" + checkpoint() + " --prompt Patient --count 3 --max-tokens 20";
  const auto first = run_program(words + " --seed 5");
  ASSERT_EQ(first.exit_code, 0);
  EXPECT_TRUE(first.output.starts_with("Patient"));
  EXPECT_EQ(run_program(words + " --seed 5").output, first.output);
  EXPECT_NE(run_program(words + " --seed 6").output, first.output);
  EXPECT_NE(run_program(words).output, run_program(words).output);  // equal with probability below 2^-100
  const auto greedy = run_program("generate" + checkpoint() + " --temperature 0");
  EXPECT_EQ(run_program("generate" + checkpoint() + " --top-k 1").output, greedy.output);
}

TEST_F(Verbs, GenerateRefusesWhatItCannotDo) {
  for (const char* wrong :
       {" --count -1", " --max_tokens 0", " --temperature -1", " --top_k -2", " --seed x"})
    expect_exit("generate" + checkpoint() + wrong, 2);
  expect_exit("generate" + checkpoint() + " --prompt " + std::string(64, 'x'), 2);
  fs::remove(run() / "latest/tokenizer.dpfa.json");
  expect_exit("generate" + checkpoint(), 7);
  expect_exit("generate --checkpoint " + path("absent"), 7);
  testing::write_text(run() / "latest/config.json", R"({"model_type": "llama"})");
  expect_exit("generate" + checkpoint(), 6);
}

TEST_F(Verbs, EvalNeedsTheDeclarationThatRecordsArePublic) {
  const std::string words = "eval" + checkpoint() + " --data " + path("data/eval");
  const auto refused = run_program(words + " --json 2>&1");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.output.find("--public"), std::string::npos) << refused.output;
  EXPECT_EQ(run_program(words + " --json 2>/dev/null").output, "");
  const auto allowed = run_program(words + " --public --json");
  ASSERT_EQ(allowed.exit_code, 0);
  const json result = json::parse(allowed.output);
  EXPECT_EQ(result.at("records"), 10);
  EXPECT_NEAR(result.at("loss").get<double>(), std::log(257), 0.5);  // an untrained model
  EXPECT_NEAR(result.at("perplexity").get<double>(), std::exp(result.at("loss").get<double>()), 1e-6);
  expect_exit(words + " --public --context 65", 2);
  expect_exit("eval" + checkpoint() + " --public --data " + path("absent"), 7);
}

TEST_F(Verbs, AuditExposureNamesEveryCanaryAndTheMedian) {
  const std::string words = "audit exposure" + checkpoint() + " --canaries " + path("data/canaries.json");
  const auto outcome = run_program(words + " --candidates 64 --json");
  ASSERT_EQ(outcome.exit_code, 0);
  const json result = json::parse(outcome.output);
  ASSERT_EQ(result.at("canaries").size(), 4u);
  EXPECT_EQ(result.at("candidates"), 64);
  for (const json& canary : result.at("canaries")) {
    EXPECT_GE(canary.at("rank"), 1);
    EXPECT_LE(canary.at("rank"), 64);
    EXPECT_NEAR(canary.at("exposure_bits").get<double>(), 6 - std::log2(canary.at("rank").get<double>()),
                1e-9);
    EXPECT_FALSE(canary.contains("secret"));
  }
  EXPECT_LE(result.at("median_exposure_bits"), 6);
  EXPECT_EQ(run_program(words + " --candidates 64 --json").output, outcome.output);
  expect_exit(words + " --candidates 1", 2);
  expect_exit("audit exposure" + checkpoint() + " --canaries " + path("absent"), 7);
  expect_exit("audit exposre", 2);
}

TEST_F(Verbs, ExportWritesAFolderThatReadsBackToTheSameBits) {
  const std::string words = "export" + checkpoint() + " --out " + path("out");
  const auto outcome = run_program(words + " 2>&1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("no ledger was found"), std::string::npos);
  EXPECT_EQ(read_text(dir_ / "out/model.safetensors"), read_text(run() / "latest/model.safetensors"));
  EXPECT_EQ(json::parse(read_text(dir_ / "out/config.json")).at("eos_token_id"), 256);
  EXPECT_EQ(data::load_tokenizer(dir_ / "out")->kind(), "bytes");
  EXPECT_FALSE(fs::exists(dir_ / "out/PRIVACY.json"));
  expect_exit(words, 7);  // it exists
  fs::remove(run() / "latest/model.safetensors");
  expect_exit("export" + checkpoint() + " --out " + path("other"), 7);
  EXPECT_FALSE(fs::exists(dir_ / "other"));
}

TEST_F(Verbs, ExportSaysWhatTheLedgerSays) {
  write_ledger(/*is_private=*/true);
  const auto outcome = run_program("export" + checkpoint() + " --out " + path("private") + " 2>&1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const json facts = json::parse(read_text(dir_ / "private/PRIVACY.json"));
  EXPECT_TRUE(facts.at("private")) << facts;
  EXPECT_TRUE(facts.at("ledger_valid"));
  EXPECT_GT(facts.at("epsilon").get<double>(), 0);
  EXPECT_EQ(facts.at("delta"), 1e-5);
  EXPECT_FALSE(facts.contains("note"));

  testing::write_text(run() / "ledger.jsonl", read_text(run() / "ledger.jsonl").substr(1));
  ASSERT_EQ(run_program("export" + checkpoint() + " --out " + path("broken") + " 2>&1").exit_code, 0);
  const json broken = json::parse(read_text(dir_ / "broken/PRIVACY.json"));
  EXPECT_FALSE(broken.at("private"));
  EXPECT_EQ(broken.at("epsilon"), "inf");
  EXPECT_TRUE(broken.at("note").get<std::string>().starts_with("NOT PRIVATE"));
}

TEST_F(Verbs, ExportOfARunWithoutPrivacyIsStamped) {
  write_ledger(/*is_private=*/false);
  const auto outcome = run_program("export" + checkpoint() + " --out " + path("out") + " 2>&1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("NOT PRIVATE"), std::string::npos);
  const json facts = json::parse(read_text(dir_ / "out/PRIVACY.json"));
  EXPECT_FALSE(facts.at("private"));
  EXPECT_EQ(facts.at("epsilon"), "inf");
}

TEST_F(Verbs, ExportOfAGpt2VocabularyKeepsItsFiles) {
  const char* shared = std::getenv("DPFA_SHARED");
  const fs::path vocabulary = fs::path(shared == nullptr ? "" : shared) / "data/gpt2-bpe";
  if (!fs::exists(vocabulary / "encoder.json"))
    GTEST_SKIP() << "not run: no GPT-2 vocabulary (DPFA_SHARED names no folder that has it)";
  const plan::Gpt2Shape shape = {1, 4, 1, 16, 50257, true};
  const auto tokenizer = data::load_gpt2_tokenizer(vocabulary);
  fs::create_directory(dir_ / "bpe");
  tokenizer->save(dir_ / "bpe");
  model::write_gpt2(dir_ / "bpe", shape, std::vector<float>(shape.parameter_count()),
                    tokenizer->end_of_text());
  expect_exit("export --checkpoint " + path("bpe") + " --out " + path("out"), 0);
  for (const char* file : {"vocab.json", "merges.txt"})
    EXPECT_EQ(read_text(dir_ / "out" / file), read_text(dir_ / "bpe" / file)) << file;
  fs::remove(dir_ / "out/tokenizer.dpfa.json");  // as Hugging Face folders come
  expect_exit("generate --max_tokens 2 --prompt Hello --checkpoint " + path("out"), 0);
}

}  // namespace
}  // namespace dpfa
