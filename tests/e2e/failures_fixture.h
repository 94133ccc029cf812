// Runs of the real program on made records, which the tests of this folder break in every way.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/plan/config.h"
#include "tests/support/job.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace dpfa::testing {

class Failures : public ::testing::Test {
 protected:
  static constexpr int kSteps = 200;

  Failures() {
    write_dataset(folder_ / "train", made_records(64));
    plan::Config config = tiny_config(folder_ / "train", run_);
    config.privacy.steps = kSteps;
    config.privacy.reserve_steps = 20 * kSteps;
    config.train.checkpoint_every = 20;
    write_text(config_, plan::to_ini(config));
  }

  Words train(const Words& more = {}) const {
    return dpfa_command({"train", "--config", config_.string()}) + more;
  }
  Words resume(const Words& more = {}) const {
    return dpfa_command({"train", "--resume", run_.string()}) + more;
  }

  size_t charges() const {
    const std::string text = std::filesystem::exists(ledger_) ? read_text(ledger_) : "";
    size_t count = 0;
    for (size_t at = text.find("\"kind\":\"charge\""); at != std::string::npos;
         at = text.find("\"kind\":\"charge\"", at + 1))
      ++count;
    return count;
  }
  bool waits_for_charges(Job& job, size_t count) const {
    return wait_until([&] { return job.ended() || charges() >= count; }, Job::kLongest) && !job.ended();
  }
  // What `dpfa ledger verify` says of the run.
  nlohmann::json verified() const {
    const Ended verify = run_command(dpfa_command({"ledger", "verify", run_.string(), "--json"}));
    EXPECT_EQ(verify.code, 0) << verify.output << verify.errors;
    const auto report = nlohmann::json::parse(verify.output, nullptr, /*allow_exceptions=*/false);
    return report.is_object() ? report : nlohmann::json::object();
  }
  // The ledger holds, and every step whose result left the process is charged.
  void expect_all_charged() const {
    const auto report = verified();
    EXPECT_EQ(report.value("valid", false), true) << report;
    size_t released = 0;
    const std::string metrics = run_.string() + "/metrics.jsonl";
    if (std::filesystem::exists(metrics)) {
      const std::string text = read_text(metrics);
      released = static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
    }
    EXPECT_GE(report.value("steps", size_t{0}), released);
  }
  int64_t checkpoint_step() const {
    return nlohmann::json::parse(read_text(run_ / "latest" / "manifest.json")).at("step");
  }

  static int sentences(const std::string& errors) {
    int count = 0;
    for (size_t at = errors.find("dpfa: "); at != std::string::npos; at = errors.find("dpfa: ", at + 1))
      ++count;
    return count;
  }
  // The command ends with `code` and one sentence that holds `words`.
  static void expect_failure(const Words& command, int code, const std::string& words) {
    const Ended ended = run_command(command);
    EXPECT_EQ(ended.code, code) << ended.errors;
    EXPECT_EQ(sentences(ended.errors), 1) << ended.errors;
    EXPECT_NE(ended.errors.find(words), std::string::npos) << "expected: " << words << "\n" << ended.errors;
  }
  static void expect_success(const Words& command) {
    const Ended ended = run_command(command);
    EXPECT_EQ(ended.code, 0) << ended.errors;
    EXPECT_EQ(sentences(ended.errors), 0) << ended.errors;
  }

  TemporaryFolder folder_;
  const std::filesystem::path run_ = folder_ / "run", config_ = folder_ / "run.ini",
                              ledger_ = run_ / "ledger.jsonl";
};

}  // namespace dpfa::testing
