// A private run learns: at epsilon 8 the loss on held-out public text falls by at least 1 nat per token from
// where the same model starts.
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

#include "src/plan/config.h"
#include "tests/support/job.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::testing {
namespace {

namespace fs = std::filesystem;

class Learning : public ::testing::Test {
 protected:
  Ended succeed(const Words& command) const {
    Ended ended = run_command(command);
    EXPECT_EQ(ended.code, 0) << ended.errors;
    return ended;
  }
  // One JSON object from a verb of the program.
  nlohmann::json report(const Words& words) const {
    const Ended ended = succeed(dpfa_command(words + Words{"--json"}));
    return nlohmann::json::parse(ended.output);
  }
  double held_out_loss(const std::string& run) const {
    return report({"eval", "--checkpoint", folder_ / run / "latest", "--data", folder_ / "eval", "--public"})
        .at("loss");
  }
  void train(const std::string& run, int64_t records, int64_t steps, double rate) const {
    plan::Config config;
    config.model.layers = 2;
    config.model.width = 64;
    config.model.heads = 2;
    config.model.context = 64;
    config.data.train = folder_ / "train";
    config.privacy.target_epsilon = 8;
    config.privacy.target_delta = 1e-5;
    config.privacy.dataset_size = records;
    config.privacy.expected_batch_size = 256;
    config.privacy.steps = steps;
    config.optimizer.learning_rate = rate;
    config.runtime.threads = 1;
    config.output.dir = folder_ / run;
    write_text(folder_ / (run + ".ini"), plan::to_ini(config));
    succeed(on_ranks(2, dpfa_command({"train", "--config", folder_ / (run + ".ini")})));
  }
  void expect_one_nat(int64_t records, int64_t steps) const {
    train("start", records, /*steps=*/1, /*rate=*/1e-9);  // the initial weights, moved by 1e-9
    train("run", records, steps, 0.006);
    const double before = held_out_loss("start"), after = held_out_loss("run");
    const auto ledger = report({"ledger", "verify", folder_ / "run"});
    EXPECT_LE(ledger.at("epsilon").get<double>(), 8);
    EXPECT_EQ(ledger.at("steps"), steps);
    EXPECT_LE(after, before - 1);
    std::cout << "held-out loss " << before << " before, " << after << " after\n";
  }

  TemporaryFolder folder_;
};

TEST_F(Learning, OnTinyShakespeareAtEpsilonEightGainsOneNatPerToken) {
  const fs::path text = fs::path(required_variable("DPFA_SHARED")) / "data/tinyshakespeare/input.txt";
  if (!fs::exists(text)) GTEST_SKIP() << "not run on tiny Shakespeare: there is no " << text;
  succeed(dpfa_command({"data", "prepare", "--input", text, "--record", "line", "--tokenizer", "bytes",
                        "--out", folder_ / "train", "--holdout", "0.02", "--holdout_out", folder_ / "eval"}));
  expect_one_nat(/*records=*/30'000, /*steps=*/100);
}

TEST_F(Learning, OnMadeRecordsAtEpsilonEightGainsOneNatPerToken) {
  succeed(dpfa_command({"data", "synth", "--records", "4000", "--canaries", "8", "--out", folder_ / "made"}));
  fs::rename(folder_ / "made" / "train", folder_ / "train");
  fs::rename(folder_ / "made" / "eval", folder_ / "eval");
  expect_one_nat(/*records=*/4'000, /*steps=*/50);
}

}  // namespace
}  // namespace dpfa::testing
