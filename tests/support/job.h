// Commands as a user starts them, alone or under mpirun, while they run: to wait for, to signal, to kill.
//
// ctest names the program in DPFA_PROGRAM and the launcher in DPFA_MPIRUN.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/temporary_folder.h"

namespace dpfa::testing {

using Words = std::vector<std::string>;

inline std::string required_variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0')
    throw std::runtime_error(std::string(name) + " is not set; ctest sets it");
  return value;
}

inline Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}
inline Words dpfa_command(const Words& words) { return Words{required_variable("DPFA_PROGRAM")} + words; }
inline Words on_ranks(int ranks, const Words& command) {
  return Words{required_variable("DPFA_MPIRUN"),
               "-np",
               std::to_string(ranks),
               "--oversubscribe",
               "--bind-to",
               "none"} +
         command;
}

inline bool wait_until(const std::function<bool()>& condition, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

class Job {
 public:
  static constexpr double kLongest = 120;  // seconds; no test waits longer for one command

  explicit Job(const Words& command) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const std::string out = folder_ / "out", err = folder_ / "err";
    pid_ = fork();
    if (pid_ < 0) throw std::runtime_error("cannot fork");
    if (pid_ == 0) {
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() {
    if (code_) return;
    send(SIGTERM);  // mpirun takes its ranks along
    if (!wait_until([&] { return ended(); }, 10)) {
      send(SIGKILL);
      wait();
    }
  }

  pid_t pid() const { return pid_; }
  void send(int signal) { kill(pid_, signal); }
  bool ended() {
    int status = 0;
    if (!code_ && waitpid(pid_, &status, WNOHANG) == pid_)
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code_.has_value();
  }
  // The exit code as a shell shows it; -1 where the command did not end in kLongest.
  int wait() {
    wait_until([&] { return ended(); }, kLongest);
    return code_.value_or(-1);
  }
  std::string output() const { return read_text(folder_ / "out"); }
  std::string errors() const { return read_text(folder_ / "err"); }

  // The process of a rank of this mpirun; -1 while it is not there.
  pid_t rank(int number) const {
    const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(number);
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      try {
        const std::string stat = read_text(entry.path() / "stat");
        if (std::stoi(stat.substr(stat.rfind(')') + 4)) != pid_) continue;  // ") S PPID"
        const std::string environment = '\0' + read_text(entry.path() / "environ");
        if (environment.find('\0' + wanted + '\0') != std::string::npos) return std::stoi(name);
      } catch (const std::exception&) {
        continue;  // it has ended meanwhile
      }
    }
    return -1;
  }

 private:
  TemporaryFolder folder_;
  pid_t pid_ = -1;
  std::optional<int> code_;
};

struct Ended {
  int code;
  std::string output, errors;
};

inline Ended run_command(const Words& command) {
  Job job(command);
  const int code = job.wait();
  return {code, job.output(), job.errors()};
}

}  // namespace dpfa::testing
