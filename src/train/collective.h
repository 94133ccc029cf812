// Errors that all ranks see together.
//
// Set-up may fail on one rank only (a file missing on one host). Instead of ending the others in the middle
// of a collective, every rank reports how it went and all of them throw the same AgreedError, which one rank
// prints.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "src/base/error.h"

namespace dpfa::train {

class AgreedError : public Error {
 public:
  using Error::Error;
};

// Runs `work` (which must not communicate) on every rank, or on rank 0 alone; throws AgreedError on every
// rank where it threw on any.
void on_every_rank(comm::Communicator& communicator, const std::function<void()>& work);
void on_rank_0(comm::Communicator& communicator, const std::function<void()>& work);

// Runs a collective `work` whose StateError comes on every rank at once (privacy::agree): it becomes an
// AgreedError.
void state_agreed(const std::function<void()>& work);

// The text of `root` on all ranks.
std::string broadcast_text(comm::Communicator& communicator, const std::string& text, int root = 0);

}  // namespace dpfa::train
