// One training step, private or not, behind one interface for the loop of the trainer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "src/base/watchdog.h"
#include "src/data/dataset.h"
#include "src/model/gpt2.h"
#include "src/plan/plan.h"
#include "src/train/optimizer.h"
#include "src/train/run_keys.h"

namespace dpfa::train {

// What every step reads; all of it outlives the steps.
struct StepContext {
  const plan::PrivacyPlan& plan;
  const plan::Config& config;
  comm::Communicator& communicator;
  const data::Dataset& dataset;
  model::Gpt2& model;
  std::span<float> weights;
  RunKeys& keys;  // the steps take over those of masks
  Watchdog& watchdog;
  int64_t context;                     // tokens of an example
  int64_t microbatch_size;             // slots that are asked for
  OptimizerState* restored = nullptr;  // of a run that is resumed: the steps take it over
};

enum class StepResult {
  kDone,
  kStopped,          // some rank was asked to stop: the partial step is discarded, nothing was charged
  kBudgetExhausted,  // one more charge would exceed the plan; nothing was drawn
};

class Steps {
 public:
  virtual ~Steps() = default;
  virtual StepResult run(int64_t step, double learning_rate) = 0;
  virtual OptimizerState& optimizer_state() = 0;
  // 1 where a private run may not share passes (may_share_passes of tuning.h), however many are asked for.
  virtual int64_t records_per_pass() const = 0;
  // Mean loss of the last step's examples on this rank, for --debug-nonprivate only.
  virtual std::optional<double> last_training_loss() const = 0;
};

std::unique_ptr<Steps> make_private_steps(const StepContext& context, accounting::Ledger& ledger);
// Draws of a run without privacy are not in the ledger: they are counted by steps.
std::unique_ptr<Steps> make_baseline_steps(const StepContext& context);

}  // namespace dpfa::train
