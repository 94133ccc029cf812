#include "src/cli/verbs.h"

namespace dpfa::cli {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> table = {
      {"train", run_train, "trains a model, privately unless told otherwise"},
      {"data", run_data, "records from text, CSV, TSV and JSONL"},
      {"generate", run_generate, "text from a checkpoint"},
      {"eval", run_eval, "loss per token on public records"},
      {"export", run_export, "a checkpoint as a Hugging Face folder"},
      {"audit", run_audit, "what a model has memorised of planted secrets"},
      {"account", run_account, "epsilon, delta, noise and steps of a mechanism"},
      {"ledger", run_ledger, "prints and verifies what a run has spent"},
      {"keys", run_keys, "identities of ranks that do not trust each other"},
      {"debug", run_debug, "per-example gradients, to compare with other libraries"},
      {"bench", run_bench, "times a training step beside its non-private baseline, and the accountant"},
      {"doctor", run_doctor, "versions and devices found, what will be used and why"},
  };
  return table;
}

}  // namespace dpfa::cli
