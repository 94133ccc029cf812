#include "src/cli/verbs.h"

namespace dpfa::cli {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> table = {
      {"account", run_account, "epsilon, delta, noise and steps of a mechanism"},
      {"ledger", run_ledger, "prints and verifies what a run has spent"},
      {"bench", run_bench, "times the accountant"},
      {"doctor", run_doctor, "versions and devices found, what will be used and why"},
  };
  return table;
}

}  // namespace dpfa::cli
