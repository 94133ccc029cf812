// The verbs of the program `dpfa`. Each lives in one file: it parses its arguments, builds, runs, and returns
// an exit code; errors travel as exceptions to main(), which prints one sentence and exits with the error's
// code.
#pragma once

#include <string>
#include <vector>

namespace dpfa::cli {

using Arguments = std::vector<std::string>;  // the words after the verb

int run_account(const Arguments& arguments);
int run_ledger(const Arguments& arguments);
int run_doctor(const Arguments& arguments);
int run_bench(const Arguments& arguments);  // of training steps only where built with DPFA_TRAIN
// Built with DPFA_TRAIN only:
int run_train(const Arguments& arguments);
int run_data(const Arguments& arguments);
int run_generate(const Arguments& arguments);
int run_eval(const Arguments& arguments);
int run_export(const Arguments& arguments);
int run_audit(const Arguments& arguments);
int run_debug(const Arguments& arguments);
int run_keys(const Arguments& arguments);

}  // namespace dpfa::cli
