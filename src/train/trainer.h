// One training run, from a configuration to a run directory.
//
// The order of a private step is fixed: draw -> clipped sum -> (agree whether to stop) -> charge -> integer
// sum over ranks -> noise -> divisor -> optimizer. Nothing between the draw and the release depends on a
// number that left the process. A run without privacy ([privacy] enabled = false) takes a separate path with
// its own gradient type.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "comm/communicator.h"
#include "src/plan/config.h"

namespace dpfa::train {

struct RunOptions {
  plan::Config config;
  bool resume = false;                         // continue the run in config.output.dir
  bool dry_run = false;                        // print the privacy statement and stop
  std::optional<uint64_t> insecure_seed = {};  // reproducible keys; stamps the run NOT PRIVATE
  bool debug_nonprivate = false;               // show the training loss; stamps the run NOT PRIVATE
};

enum class Outcome { kFinished, kStopped, kBudgetExhausted };

// Runs on all ranks of `communicator`. Throws the errors of src/base/error.h; AgreedError where all ranks
// know.
Outcome run_training(const RunOptions& options, comm::Communicator& communicator);

}  // namespace dpfa::train
