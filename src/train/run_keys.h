// The streams of one process of a run, made at its start.
//
// Every rank draws a root of its own for sampling, dropout and dither, and with noise = shares for its share
// of the noise; it never leaves the rank. What all hold alike comes from a root that rank 0 draws and shares:
// the public initialisation, and with noise = after_sum the noise (ranks and network are trusted). Under
// --insecure-seed all streams of all ranks come from the seed, so that runs can be compared; such a run is
// stamped NOT PRIVATE.
#pragma once

#include <cstdint>
#include <optional>

#include "comm/communicator.h"
#include "comm/secagg/key_agreement.h"
#include "src/base/stream_key.h"

namespace dpfa::train {

struct RunKeys {
  StreamKey noise;     // after_sum: equal on all ranks; shares: of this rank alone
  StreamKey init;      // equal on all ranks; public
  StreamKey sampling;  // of this rank alone
  StreamKey dropout;   // of this rank alone
  StreamKey dither;    // of this rank alone
  std::optional<comm::secagg::SessionKeys> masks = {};  // mode = masked (mask_keys.h)
};

// Throws StateError on every rank where two ranks drew the same root (a cloned machine whose generator was
// not reseeded): their noise would not be independent. Not asked under --insecure-seed.
RunKeys make_run_keys(comm::Communicator& communicator, std::optional<uint64_t> insecure_seed,
                      bool noise_shares = false);

}  // namespace dpfa::train
