// The program as a user starts it: exit codes, where text goes, JSON that parses.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <nlohmann/json.hpp>

namespace dpfa {
namespace {

struct Outcome {
  int exit_code;
  std::string output;
};

// `words` go through the shell, so that redirections can be tested.
Outcome run(const std::string& words) {
  const char* program = std::getenv("DPFA_PROGRAM");
  if (program == nullptr) throw std::runtime_error("DPFA_PROGRAM names the program; ctest sets it");
  FILE* pipe = popen((std::string(program) + " " + words).c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot start a shell");
  std::array<char, 4096> buffer;
  std::string output;
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe))
    output.append(buffer.data(), count);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), output};
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

TEST(Program, HelpAndVersionSucceed) {
  const Outcome help = run("--help");
  EXPECT_EQ(help.exit_code, 0);
  for (const char* verb : {"account", "ledger", "doctor"}) expect_contains(help.output, verb);
  const Outcome version = run("--version");
  EXPECT_EQ(version.exit_code, 0);
  for (const char* name : {"dpfa ", "compiler: ", "libsodium: ", "libtorch: ", "mpi: ", "nccl: "}) {
    expect_contains(version.output, name);
  }
}

TEST(Program, EveryVerbOfTheHelpHasAHelpOfItsOwn) {
  const std::string help = run("--help").output;
  int verbs = 0;
  for (size_t line = help.find("\n  "); line != std::string::npos; line = help.find("\n  ", line + 1)) {
    const std::string verb = help.substr(line + 3, help.find(' ', line + 3) - line - 3);
    const Outcome outcome = run(verb + " --help");
    EXPECT_EQ(outcome.exit_code, 0) << verb;
    expect_contains(outcome.output, "dpfa " + verb);
    ++verbs;
  }
  EXPECT_GE(verbs, 3);
}

TEST(Program, WrongUseExitsWithTwoAndOneSentence) {
  for (const std::string words : {"docter", "doctor --jsn", "doctor surplus"}) {
    const Outcome outcome = run(words + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 2) << words;
    EXPECT_EQ(outcome.output.find('\n'), outcome.output.size() - 1) << outcome.output;
    EXPECT_EQ(run(words + " 2>/dev/null").output, "") << words;
  }
  expect_contains(run("docter 2>&1").output, "did you mean doctor?");
  EXPECT_EQ(run("2>&1").exit_code, 2);
}

TEST(Program, OutputThatCannotBeWrittenIsNotSuccess) {
  EXPECT_EQ(run("doctor --json 2>/dev/null >/dev/full").exit_code, 7);
}

TEST(Doctor, JsonNamesProgramLibrariesHostAndChoices) {
  const Outcome outcome = run("doctor --json");
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
