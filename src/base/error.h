// The exception types of dpfa and the process exit code of each (table in README.md).
//
// They are sorted by what the operator does next, not by where they arise. Conditions that depend on private
// data (a NaN gradient, an empty draw, a huge norm) are values and never errors.
#pragma once

#include <stdexcept>
#include <string>

namespace dpfa {

enum class ExitCode : int {
  kDone = 0,
  kConfig = 2,           // fix the command line or the configuration
  kBudgetExhausted = 3,  // the run ended at its budget, after a valid checkpoint
  kComm = 4,             // a peer or the network was lost: restart resumes
  kState = 5,            // checkpoint, ledger or data do not fit each other
  kUnsupported = 6,      // model part, mechanism or event without a sound implementation
  kIo = 7,               // disk full, unreadable, malformed file
  kInternal = 70,        // a defect of dpfa
  kStopRequested = 75,   // SIGUSR1: checkpoint written, start again with --resume
  kHang = 76,            // the watchdog found no progress
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what) : std::runtime_error(what), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

namespace internal {
template <ExitCode kCode>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& what) : Error(kCode, what) {}
};
}  // namespace internal

using ConfigError = internal::ErrorOf<ExitCode::kConfig>;
using BudgetExhausted = internal::ErrorOf<ExitCode::kBudgetExhausted>;
using CommError = internal::ErrorOf<ExitCode::kComm>;
using StateError = internal::ErrorOf<ExitCode::kState>;
using Unsupported = internal::ErrorOf<ExitCode::kUnsupported>;
using IoError = internal::ErrorOf<ExitCode::kIo>;
using InternalError = internal::ErrorOf<ExitCode::kInternal>;

}  // namespace dpfa
