// The program as a user starts it: exit codes, where text goes, JSON that parses.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/support/program.h"

namespace dpfa {
namespace {

using Outcome = testing::ProgramOutcome;
using testing::run_program;

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

TEST(Program, HelpAndVersionSucceed) {
  const Outcome help = run_program("--help");
  EXPECT_EQ(help.exit_code, 0);
  for (const char* verb : {"account", "ledger", "doctor"}) expect_contains(help.output, verb);
  const Outcome version = run_program("--version");
  EXPECT_EQ(version.exit_code, 0);
  for (const char* name : {"dpfa ", "compiler: ", "libsodium: ", "libtorch: ", "mpi: ", "nccl: "}) {
    expect_contains(version.output, name);
  }
}

TEST(Program, EveryVerbOfTheHelpHasAHelpOfItsOwn) {
  const std::string help = run_program("--help").output;
  int verbs = 0;
  for (size_t line = help.find("\n  "); line != std::string::npos; line = help.find("\n  ", line + 1)) {
    const std::string verb = help.substr(line + 3, help.find(' ', line + 3) - line - 3);
    const Outcome outcome = run_program(verb + " --help");
    EXPECT_EQ(outcome.exit_code, 0) << verb;
    expect_contains(outcome.output, "dpfa " + verb);
    ++verbs;
  }
  EXPECT_GE(verbs, 3);
}

TEST(Program, WrongUseExitsWithTwoAndOneSentence) {
  for (const std::string words : {"docter", "doctor --jsn", "doctor surplus"}) {
    const Outcome outcome = run_program(words + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 2) << words;
    EXPECT_EQ(outcome.output.find('\n'), outcome.output.size() - 1) << outcome.output;
    EXPECT_EQ(run_program(words + " 2>/dev/null").output, "") << words;
  }
  expect_contains(run_program("docter 2>&1").output, "did you mean doctor?");
  EXPECT_EQ(run_program("2>&1").exit_code, 2);
}

TEST(Program, OutputThatCannotBeWrittenIsNotSuccess) {
  EXPECT_EQ(run_program("doctor --json 2>/dev/null >/dev/full").exit_code, 7);
}

TEST(Doctor, JsonNamesProgramLibrariesHostAndChoices) {
  const Outcome outcome = run_program("doctor --json");
  ASSERT_EQ(outcome.exit_code, 0);
  const auto report = nlohmann::json::parse(outcome.output);
  for (const char* key : {"version", "revision", "compiler"})
    EXPECT_TRUE(report.at("program").contains(key)) << key;
  for (const char* key : {"libsodium", "libtorch", "mpi", "nccl", "cuda"}) {
    EXPECT_TRUE(report.at("libraries").at(key).is_string()) << key;
  }
  EXPECT_GT(report.at("host").at("usable_cores").get<double>(), 0);
  EXPECT_TRUE(report.at("host").contains("shared_memory_mib"));
  for (const auto& choice : report.at("choices"))
    EXPECT_FALSE(choice.at("because").get<std::string>().empty());
  EXPECT_EQ(report.at("choices").at(0).at("use"), "cpu");
}

}  // namespace
}  // namespace dpfa
