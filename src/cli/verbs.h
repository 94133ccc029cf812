// The table of verbs. Which file defines it decides what the program can do: verbs_account.cc for the
// calculator and the ledger tools, verbs_train.cc for all.
#pragma once

#include <string>
#include <vector>

#include "src/cli/cli.h"

namespace dpfa::cli {

struct Verb {
  std::string name;
  int (*run)(const Arguments&);
  std::string summary;
};

const std::vector<Verb>& verbs();

}  // namespace dpfa::cli
