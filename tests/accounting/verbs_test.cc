// The verbs account and ledger as a user calls them: options, JSON, exit codes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/ledger.h"
#include "src/base/error.h"
#include "src/cli/bench_account.h"
#include "src/cli/cli.h"
#include "tests/accounting/ledger_fixture.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::cli {
namespace {

using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;
using nlohmann::json;

struct Outcome {
  int exit_code;
  std::string output;
  json object() const { return json::parse(output); }
};

Outcome run(int (*verb)(const Arguments&), const Arguments& arguments) {
  ::testing::internal::CaptureStdout();
  int exit_code = -1;
  try {
    exit_code = verb(arguments);
  } catch (...) {
    ::testing::internal::GetCapturedStdout();
    throw;
  }
  return {exit_code, ::testing::internal::GetCapturedStdout()};
}

Outcome account(const Arguments& arguments) { return run(run_account, arguments); }
Outcome ledger(const Arguments& arguments) { return run(run_ledger, arguments); }

TEST(AccountVerb, EpsilonPrintsTheReportOfTheAccountant) {
  const json object = account({"epsilon", "--sample_rate", "0.01", "--noise-multiplier", "1.1", "--steps=500",
                               "--delta", "1e-5", "--json"})
                          .object();
  const auto report = accounting::epsilon_of(accounting::PoissonSampledGaussianEvent{0.01, 1.1}, 500, 1e-5);
  EXPECT_EQ(object.at("epsilon"), report.epsilon);
  EXPECT_EQ(object.at("lower_bound"), report.lower_bound);
  EXPECT_EQ(object.at("delta"), 1e-5);
  EXPECT_EQ(object.at("accountant"), report.accountant);
  EXPECT_EQ(object.at("relation"), "add_or_remove_one");
}

TEST(AccountVerb, SearchedParametersMeetTheirTarget) {
  const json noise = account({"noise-multiplier", "--target_epsilon", "3", "--target_delta", "1e-5",
                              "--sample_rate", "0.032", "--steps", "30", "--json"})
                         .object();
  EXPECT_LE(noise.at("epsilon"), 3);
  EXPECT_GT(noise.at("epsilon"), 2.999);
  EXPECT_GT(noise.at("noise_multiplier"), 0.5);
  const json steps = account({"steps", "--target_epsilon", "2", "--target_delta", "1e-6", "--sample_rate",
                              "0.1", "--noise_multiplier", "3", "--json"})
                         .object();
  EXPECT_GT(steps.at("steps"), 100);
  EXPECT_LE(steps.at("epsilon"), 2);
  const json delta = account({"delta", "--sample_rate", "0.01", "--noise_multiplier", "1", "--steps", "100",
                              "--epsilon", "1", "--json"})
                         .object();
  EXPECT_EQ(delta.at("epsilon"), 1);
  EXPECT_GT(delta.at("delta"), 0);
  EXPECT_LE(delta.at("lower_bound"), 1);
}

TEST(AccountVerb, SampleRateMeetsItsTarget) {
  const json rate = account({"sample-rate", "--target_epsilon", "2", "--target_delta", "1e-6",
                             "--noise_multiplier", "1.5", "--steps", "1000", "--json"})
                        .object();
  EXPECT_LE(rate.at("epsilon"), 2);
  EXPECT_GT(rate.at("epsilon"), 1.99);
  EXPECT_GT(rate.at("sample_rate"), 0.005);
}

TEST(AccountVerb, EventsOfAFileComposeWithTheirCounts) {
  TemporaryFolder folder;
  const accounting::Event step = accounting::PoissonSampledGaussianEvent{0.01, 1.1};
  const accounting::Event query = accounting::LaplaceEvent{20, 1};
  const json list = {{{"event", accounting::to_json(step)}, {"count", 500}},
                     {{"event", accounting::to_json(query)}, {"count", 3}}};
  const std::string file = (folder / "events.json").string();
  write_text(file, list.dump());
  const json object = account({"epsilon", "--events", file, "--delta", "1e-5", "--json"}).object();
  const std::vector<accounting::Charge> charges = {{step, 500}, {query, 3}};
  EXPECT_EQ(object.at("epsilon"), accounting::epsilon_of(charges, 1e-5).epsilon);
  EXPECT_EQ(object.at("relation"), "add_or_remove_one");
  EXPECT_EQ(object.at("events"), 2);
  const json delta = account({"delta", "--events", file, "--epsilon", "1.5", "--json"}).object();
  EXPECT_EQ(delta.at("delta"), accounting::delta_of(charges, 1.5));
  const json search =
      account({"epsilon", "--events", file, "--delta", "1e-5", "--repeat_mean", "10", "--json"}).object();
  EXPECT_GT(search.at("epsilon"), object.at("epsilon"));
  EXPECT_EQ(search.at("accountant"), "rdp_repeat_and_select");

  write_text(file, R"([{"event": {"mechanism": "unheard_of"}, "count": 1}])");
  EXPECT_THROW(account({"epsilon", "--events", file, "--delta", "1e-5"}), accounting::UnsupportedEvent);
  write_text(file, "{}");
  EXPECT_THROW(account({"epsilon", "--events", file, "--delta", "1e-5"}), IoError);
  EXPECT_THROW(account({"epsilon", "--events", file, "--steps", "3", "--delta", "1e-5"}), ConfigError);
}

TEST(AccountVerb, NoNoiseIsPrintedAsInfinity) {
  EXPECT_EQ(account({"epsilon", "--sample_rate", "0.01", "--noise_multiplier", "0", "--steps", "5", "--delta",
                     "1e-5", "--json"})
                .object()
                .at("epsilon"),
            "inf");
}

TEST(AccountVerb, WrongWordsAreConfigErrors) {
  EXPECT_THROW(account({}), ConfigError);
  EXPECT_THROW(account({"guess"}), ConfigError);
  EXPECT_THROW(account({"epsilon", "--sample_rate", "0.01"}), ConfigError);
  EXPECT_THROW(account({"epsilon", "--sample_rate", "2", "--noise_multiplier", "1", "--steps", "5", "--delta",
                        "1e-5"}),
               ConfigError);
  EXPECT_THROW(account({"epsilon", "--sample_rate", "0.1", "--noise_multiplier", "1", "--steps", "-5",
                        "--delta", "1e-5"}),
               ConfigError);
  EXPECT_THROW(account({"epsilon", "--sigma", "2"}), ConfigError);
}

TEST(AccountVerb, EveryVerbHasHelp) {
  for (const Arguments& words : std::vector<Arguments>{{"--help"},
                                                       {"epsilon", "--help"},
                                                       {"delta", "--help"},
                                                       {"noise-multiplier", "--help"},
                                                       {"steps", "--help"},
                                                       {"sample-rate", "--help"},
                                                       {"check", "--help"}}) {
    const Outcome outcome = account(words);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_NE(outcome.output.find("usage: dpfa account"), std::string::npos);
  }
}

TEST(AccountVerb, CheckPrintsOneLinePerCaseAndFailsWhereOneFails) {
  TemporaryFolder folder;
  json good = {{"id", "good"},
               {"mechanism", "gaussian"},
               {"quantity", "rdp"},
               {"params", {{"order", 2}, {"sigma", 1}}},
               {"expected", 1},
               {"tolerance", 1e-9},
               {"tolerance_kind", "rel"},
               {"check", "near"}};
  json odd = good, bad = good;
  odd["mechanism"] = "unheard_of";
  bad["expected"] = 2;
  write_text(folder / "cases.json", json{good, odd}.dump());
  const Outcome fine = account({"check", (folder / "cases.json").string(), "--json"});
  EXPECT_EQ(fine.exit_code, 0);
  std::istringstream lines(fine.output);
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(json::parse(line),
            (json{{"id", "good"}, {"value", 1.0}, {"expected", 1}, {"pass", true}, {"message", ""}}));
  std::getline(lines, line);
  EXPECT_TRUE(json::parse(line).at("value").is_null());
  std::getline(lines, line);
  EXPECT_EQ(json::parse(line), (json{{"passed", 1}, {"failed", 0}, {"not_understood", 1}}));
  write_text(folder / "cases.json", json{good, bad}.dump());
  EXPECT_EQ(account({"check", (folder / "cases.json").string()}).exit_code, 5);
}

TEST(LedgerVerb, ShowAndVerifyPrintTheGuaranteeOfAnIntactLedger) {
  TemporaryFolder folder;
  {
    auto written = accounting::Ledger::create(folder / "ledger.jsonl", accounting::testing::open_fields());
    written.start({{"world_size", 1}});
    for (int i = 0; i < 3; ++i) written.charge(i, i, accounting::testing::event());
  }
  const Outcome verified = ledger({"verify", folder.path().string(), "--json"});
  EXPECT_EQ(verified.exit_code, 0);
  EXPECT_EQ(verified.object().at("valid"), true);
  EXPECT_EQ(verified.object().at("reason"), "");
  EXPECT_EQ(verified.object().at("steps"), 3);
  EXPECT_EQ(verified.object().at("delta"), 1e-5);
  EXPECT_GT(verified.object().at("epsilon"), verified.object().at("epsilon_charged"));
  const std::string head = verified.object().at("head");
  EXPECT_EQ(ledger({"verify", (folder / "ledger.jsonl").string(), "--head", head}).exit_code, 0);
  EXPECT_EQ(ledger({"verify", folder.path().string(), "--head", std::string(64, '7')}).exit_code, 5);
  const Outcome shown = ledger({"show", folder.path().string()});
  EXPECT_NE(shown.output.find("steps 0 to 2, 3 charges"), std::string::npos) << shown.output;
  EXPECT_EQ(ledger({"show", folder.path().string(), "--json"}).object().at("spending").size(), 1u);
}

TEST(LedgerVerb, VerifyPrintsACertificateThatAThirdPartyCanRead) {
  TemporaryFolder folder;
  auto written = accounting::Ledger::in_memory(accounting::testing::open_fields());
  written.start({{"id", "first"}, {"world_size", 1}});
  for (int i = 0; i < 3; ++i) written.charge(i, i, accounting::testing::event());
  write_text(folder / "ledger.jsonl", written.text());
  const Outcome text = ledger({"verify", folder.path().string(), "--head", written.digest()});
  EXPECT_EQ(text.exit_code, 0);
  for (const std::string& part :
       {std::string("run made-up on data set 00ff"), std::string("3 charges of"), written.digest(),
        std::string("relation add_or_remove_one"), std::string("confirmed"),
        std::string("Shown only against a digest kept elsewhere"),
        std::string("1 digest(s) given with --head")}) {
    EXPECT_NE(text.output.find(part), std::string::npos) << part << "\n" << text.output;
  }
  const json object = ledger({"verify", folder.path().string(), "--json"}).object();
  EXPECT_EQ(object.at("certificate").at("verdict"), "confirmed");
  EXPECT_LE(object.at("certificate").at("exact_epsilon_at_least"), object.at("epsilon"));
  EXPECT_EQ(object.at("epsilon"), ledger({"show", folder.path().string(), "--json"}).object().at("epsilon"));
}

TEST(LedgerVerb, ShowOfADataSetPrintsWhatItsRunsCostTogether) {
  TemporaryFolder folder;
  for (const std::string name : {"a", "b"}) {
    json fields = accounting::testing::open_fields();
    fields["run_id"] = name;
    std::filesystem::create_directories(folder / name);
    auto written = accounting::Ledger::create(folder / (name + "/ledger.jsonl"), fields);
    written.start({{"id", name}, {"world_size", 1}});
    for (int i = 0; i < 10; ++i) written.charge(i, i, accounting::testing::event());
  }
  const std::string a = (folder / "a").string(), b = (folder / "b").string();
  const Outcome both = ledger({"show", "--dataset", "00ff", "--runs", a, b, "--json"});
  EXPECT_EQ(both.exit_code, 0);
  const Outcome one = ledger({"show", "--dataset", "00ff", "--runs", a, "--json"});
  EXPECT_GT(both.object().at("epsilon"), one.object().at("epsilon"));
  EXPECT_EQ(one.object().at("epsilon"), ledger({"verify", a, "--json"}).object().at("epsilon"));
  EXPECT_EQ(both.object().at("runs").size(), 2u);
  const Outcome text = ledger({"show", "--dataset=00ff", "--runs", folder.path().string()});
  EXPECT_NE(text.output.find("joint epsilon"), std::string::npos) << text.output;
  write_text(folder / "b/ledger.jsonl", "{}\n");
  const Outcome refused = ledger({"show", "--dataset", "00ff", "--runs", a, "--runs", b, "--json"});
  EXPECT_EQ(refused.exit_code, 5);
  EXPECT_TRUE(refused.object().at("epsilon").is_null());
  EXPECT_THROW(ledger({"show", "--dataset", "00ff"}), ConfigError);
  EXPECT_THROW(ledger({"show", "--dataset", "00ff", "--runs", "/nonexistent"}), IoError);
}

TEST(BenchVerb, PrintsCasesWithTheirBaselines) {
  const json object = run(bench_account, {"--only", "rdp", "--repeats", "1", "--json"}).object();
  ASSERT_EQ(object.at("results").size(), 1u);
  const json& result = object.at("results").at(0);
  for (const char* name : {"case", "seconds", "baseline", "baseline_seconds", "ratio", "repeats",
                           "peak_rss_mib", "baseline_peak_rss_mib"}) {
    EXPECT_TRUE(result.contains(name)) << name;
  }
  EXPECT_TRUE(object.at("machine").contains("cpu"));
  EXPECT_THROW(bench_account({"--only", "nothing"}), ConfigError);
}

TEST(LedgerVerb, AlteredLedgerHasNoEpsilonAndExitsWithFive) {
  TemporaryFolder folder;
  auto written = accounting::Ledger::in_memory(accounting::testing::open_fields());
  written.start({{"world_size", 1}});
  written.charge(0, 0, accounting::testing::event());
  std::string text = written.text();
  text.replace(text.find("\"step\":0"), 8, "\"step\":1");
  write_text(folder / "ledger.jsonl", text);
  const Outcome outcome = ledger({"verify", folder.path().string(), "--json"});
  EXPECT_EQ(outcome.exit_code, 5);
  EXPECT_EQ(outcome.object().at("valid"), false);
  EXPECT_TRUE(outcome.object().at("epsilon").is_null());
  EXPECT_NE(outcome.object().at("reason").get<std::string>().find("line 3"), std::string::npos);
  EXPECT_EQ(ledger({"show", folder.path().string()}).exit_code, 5);
}

TEST(LedgerVerb, RunWithoutPrivacyIsCalledThatAndHasNoEpsilon) {
  TemporaryFolder folder;
  auto written = accounting::Ledger::in_memory(accounting::testing::open_fields(false));
  written.start({{"world_size", 1}});
  written.charge(0, 0, accounting::testing::event());
  write_text(folder / "ledger.jsonl", written.text());
  for (const char* verb : {"show", "verify"}) {
    const Outcome text = ledger({verb, folder.path().string()});
    EXPECT_EQ(text.exit_code, 0);
    EXPECT_NE(text.output.find("NOT PRIVATE: insecure seed 7"), std::string::npos);
    const json object = ledger({verb, folder.path().string(), "--json"}).object();
    EXPECT_TRUE(object.at("epsilon").is_null());
    EXPECT_TRUE(object.at("epsilon_charged").is_null());
    EXPECT_EQ(object.at("valid"), true);
    EXPECT_EQ(object.at("private"), false);
  }
}

TEST(LedgerVerb, WrongWordsAndMissingFilesAreErrorsOfTheirClass) {
  EXPECT_THROW(ledger({}), ConfigError);
  EXPECT_THROW(ledger({"refund"}), ConfigError);
  EXPECT_THROW(ledger({"verify"}), ConfigError);
  EXPECT_THROW(ledger({"verify", "/nonexistent"}), IoError);
  EXPECT_EQ(ledger({"--help"}).exit_code, 0);
  EXPECT_EQ(ledger({"verify", "--help"}).exit_code, 0);
}

}  // namespace
}  // namespace dpfa::cli
