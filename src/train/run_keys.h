// The streams of one process of a run, made at its start.
//
// noise = after_sum: rank 0 draws a root from the system and shares it; ranks and network are trusted.
// Sampling (and dropout) roots are drawn by each rank for itself and never leave it. Under --insecure-seed
// all streams of all ranks come from the seed, so that runs can be compared; such a run is stamped NOT
// PRIVATE.
#pragma once

#include <cstdint>
#include <optional>

#include "comm/communicator.h"
#include "src/base/stream_key.h"

namespace dpfa::train {

struct RunKeys {
  StreamKey noise;     // equal on all ranks
  StreamKey init;      // equal on all ranks; public
  StreamKey sampling;  // of this rank alone
  StreamKey dropout;   // of this rank alone
};

RunKeys make_run_keys(comm::Communicator& communicator, std::optional<uint64_t> insecure_seed);

}  // namespace dpfa::train
