// The program `dpfa` as a user starts it. ctest names it in DPFA_PROGRAM.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dpfa::testing {

struct ProgramOutcome {
  int exit_code;
  std::string output;  // stdout; stderr too where `words` redirect it
};

// `words` go through the shell.
inline ProgramOutcome run_program(const std::string& words) {
  const char* program = std::getenv("DPFA_PROGRAM");
  if (program == nullptr) throw std::runtime_error("DPFA_PROGRAM names the program; ctest sets it");
  std::string command = program;
  command.append(" ").append(words);
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot start a shell");
  std::array<char, 4096> buffer;
  std::string output;
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe))
    output.append(buffer.data(), count);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), output};
}

}  // namespace dpfa::testing
