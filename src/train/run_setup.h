// Everything a run needs before its first step, checked in the order in which an operator would want to hear
// of it: configuration, data, model, plan; then the run directory and the ledger; then weights and
// measurements.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "src/base/flat_buffer.h"
#include "src/data/dataset.h"
#include "src/model/gpt2.h"
#include "src/plan/plan.h"
#include "src/train/checkpoint.h"
#include "src/train/run_keys.h"
#include "src/train/trainer.h"

namespace dpfa::train {

// What a resumed run goes on from, the same on all ranks; its weights are RunSetup::weights.
struct Restored {
  int64_t step = 0;
  OptimizerState optimizer;
  std::string digest;  // state_digest()
};

struct RunSetup {
  plan::Config config;  // resolved: what config.ini of the run directory says
  std::filesystem::path run_dir;
  std::optional<data::Dataset> train, eval;  // `train` is this rank's own where data.train names {rank}
  std::string dataset_id;                    // of all ranks' data sets, joined by '+'
  plan::Gpt2Shape shape;
  int64_t context = 0;  // tokens of an example
  std::optional<plan::PrivacyPlan> plan;
  std::optional<accounting::Ledger> ledger;  // the file on rank 0, replicas elsewhere
  std::optional<RunKeys> keys;
  FlatBuffer<float> weights;
  std::unique_ptr<model::Gpt2> model;
  std::optional<CheckpointHead> checkpoint;  // to resume from; on rank 0
  std::optional<Restored> restored;
  int64_t microbatch_size = 1;  // that is asked for or fastest; steps.h: what a run takes
};

// On a dry run: prints the privacy statement on rank 0 and prepares nothing further.
RunSetup prepare_run(const RunOptions& options, comm::Communicator& communicator);

// Keeps the pages of freed blocks: activations come and go with the same sizes at every step.
void keep_freed_memory();

// Threads of this process for the host's share of cores.
void set_threads(int64_t configured, int local_size);

}  // namespace dpfa::train
