// From whom a run's epsilon protects: two ledgers, one for everybody who is no rank and one for ranks that
// collude, and the reasons for which a claim is refused.
#pragma once

#include <optional>
#include <string>

#include "accounting/event.h"
#include "src/plan/plan.h"

namespace dpfa::plan {

// What a run does outside its plan that decides whom the plan protects from.
struct RunFacts {
  bool shared_sampling_key = false;  // --insecure-seed: each rank knows the draws of all
  bool raw_values_shown = false;     // --debug-nonprivate: private values leave beside the channel
};

struct Claim {
  std::optional<accounting::Event> event;  // of one step, as this adversary sees it
  std::string refusal;                     // why there is none
};

struct Claims {
  Claim outsiders;  // model, checkpoints, ledger, metrics
  Claim network;    // also what ranks send each other, and when
  Claim insiders;   // colluding_ranks of the ranks: also their own records, noise and every sum
};

Claims claims_of(const PrivacyPlan& plan, const RunFacts& facts);

// Refuses, before anything runs, a configuration that asks for what a job of `ranks` ranks cannot keep, or
// says how norms are measured where that does nothing: ConfigError or Unsupported with a sentence. A dry run
// may state another number of ranks than it has.
void check_job(const Config& config, int64_t ranks, bool dry_run);

}  // namespace dpfa::plan
