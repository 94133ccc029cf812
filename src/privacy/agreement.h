// All ranks agree on where the run stands, or all stop.
#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"

namespace dpfa::privacy {

struct Standing {
  int64_t step = 0;
  int64_t draw = 0;
  std::string plan_digest;
  std::string ledger_digest;
};

// Throws StateError on every rank, naming what differs and on which ranks, where the standings are not all
// equal.
void agree(comm::Communicator& communicator, const Standing& mine);

}  // namespace dpfa::privacy
