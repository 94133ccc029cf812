// The ledger of a run at a process start: made, or gone on with, by rank 0, and held by every rank against
// what it was itself given.
//
// Guarantee: no rank goes on with a ledger of another plan, other data sets, other stamps, or whose last
// start names other ranks or shares than this rank's; nor with a checkpoint that rank 0's ledger does not
// know, or with other weights or moments than the ledger says of it.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "src/plan/plan.h"
#include "src/train/run_setup.h"

namespace dpfa::train {

// Why the run is NOT PRIVATE; empty where it is.
std::vector<std::string> stamps_of(const RunOptions& options);

// The configuration's plan for `ranks` of them (noise = shares: the plan names its ranks).
plan::PrivacyPlan plan_for(const RunSetup& setup, int64_t ranks);

// Throws ConfigError where the run folder exists.
void refuse_existing_output(const RunSetup& setup);

// Collective: fills in `ledger`, `checkpoint` and the plan for these ranks, and writes the line of this
// start. Throws AgreedError on every rank.
void open_run(RunSetup& setup, const RunOptions& options, comm::Communicator& communicator);

}  // namespace dpfa::train
