// Privacy loss of a run: compose events, then read epsilon at delta.
//
// All numbers are upper bounds rounded towards more epsilon, in nats, for the neighbouring relation of the
// event. An event that cannot be bounded throws Unsupported; it is never skipped or approximated downwards.
#pragma once

#include <cstdint>
#include <string>

#include "accounting/event.h"

namespace dpfa::accounting {

struct EpsilonReport {
  double epsilon = 0;        // smallest valid upper bound found; infinity where there is none
  double delta = 0;
  double lower_bound = 0;    // no mechanism analysis can go below this epsilon at this delta
  std::string accountant;    // which bound `epsilon` is: "rdp"
  double order = 0;          // Renyi order that gave it
};

// Epsilon at `delta` of `count` adaptive repetitions of `event`; count 0 gives 0.
EpsilonReport epsilon_of(const Event& event, int64_t count, double delta);
// Smallest delta such that `count` repetitions are (epsilon, delta)-DP by the same bounds.
double delta_of(const Event& event, int64_t count, double epsilon);

}  // namespace dpfa::accounting
