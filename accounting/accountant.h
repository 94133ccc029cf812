// Privacy loss of a run: compose events, then read epsilon at delta.
//
// All numbers are upper bounds rounded towards more epsilon, in nats, for the neighbouring relation of the
// event. What cannot be bounded throws UnsupportedEvent; it is never skipped or approximated downwards.
// Arguments out of range (check_event, delta outside [0, 1), a negative count or epsilon) throw ConfigError.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "accounting/event.h"

namespace dpfa::accounting {

struct EpsilonReport {
  double epsilon = 0;  // smallest valid upper bound found; infinity where there is none
  double delta = 0;
  double lower_bound = 0;  // no mechanism analysis can go below this epsilon at this delta
  std::string accountant;  // which bound `epsilon` is: "rdp", "pld"; exact: "gaussian", "one_step", "trivial"
  double order = 0;        // Renyi order that gave it, 0 for the exact ones
};

// Epsilon at `delta` of `count` adaptive repetitions of `event`; count 0 gives 0.
EpsilonReport epsilon_of(const Event& event, int64_t count, double delta);
// Epsilon at `delta` of all `charges` together; their order and grouping do not matter. The schedule must
// have been fixed in advance, not chosen from outputs.
EpsilonReport epsilon_of(std::span<const Charge> charges, double delta);
// The same where, for either data set, the run differs from these charges with probability at most
// `deviation`: the least epsilon found for which they are (epsilon, delta_left(delta, epsilon,
// deviation))-DP, infinity where there is none. The lower bound is that of the charges at `delta`.
EpsilonReport epsilon_of(std::span<const Charge> charges, double delta, double deviation);
// delta - (1 + e^epsilon) deviation, rounded down: P[M in S] <= P[M' in S] + deviation, and the other way
// round, so where M' is (epsilon, this)-DP M is (epsilon, delta)-DP. 0 or less: nothing is left.
double delta_left(double delta, double epsilon, double deviation);
// epsilon_of().epsilon alone, for searches.
double epsilon_upper_bound(const Event& event, int64_t count, double delta);
double epsilon_upper_bound(std::span<const Charge> charges, double delta);
// Smallest delta such that `count` repetitions are (epsilon, delta)-DP by the same bounds.
double delta_of(const Event& event, int64_t count, double epsilon);
double delta_of(std::span<const Charge> charges, double epsilon);

// Bound on the true-positive rate of any test, with false-positive rate at most `fpr` in [0, 1], of whether a
// record was used: the smallest delta + e^epsilon fpr found (Kairouz, Oh and Viswanath 2015, theorem 2.1).
double true_positive_rate_bound(std::span<const Charge> charges, double fpr);

// relation_name(relation(event)): the relation for which the numbers of this event hold.
std::string relation_of(const Event& event);

}  // namespace dpfa::accounting
