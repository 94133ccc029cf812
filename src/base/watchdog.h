// Ends the process when it makes no progress: a stopped or partitioned peer leaves MPI waiting for ever.
//
// progress() is called at each phase of a step. A background thread compares the time since the last call
// with the deadline max(minimum, 10 x the longest phase gap seen so far, ignoring the first); when it passes,
// the thread writes one line naming the rank and the phase to stderr and calls _exit(76). Each rank watches
// itself, which is a lease: a rank cut off from its peers ends by itself.
#pragma once

#include <chrono>
#include <memory>

namespace dpfa {

class Watchdog {
 public:
  // A minimum of zero switches it off.
  Watchdog(int rank, std::chrono::seconds minimum);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // `phase` must be a string literal.
  void progress(const char* phase);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa
