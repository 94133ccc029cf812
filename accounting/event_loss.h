// Pairs of laws that dominate events, for accountants that work on privacy losses.
#pragma once

#include <optional>
#include <vector>

#include "accounting/pld/composition.h"
#include "accounting/schedule.h"

namespace dpfa::accounting {

// One pair for every distinct part of the schedule; nothing where a part has no pair that is proved to
// dominate it, or more than 512 are of other kinds than the first two:
//   gaussian                      all of them one Gaussian: the joint loss is normal
//   poisson_subsampled_gaussian   (1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2); not for replace_one
//   truncated_poisson...          the mixture of truncation_probability (mechanism_rdp.h)
//   randomized_response           its own probabilities
//   approximate_dp                Kairouz, Oh and Viswanath 2015; so the events with a pure epsilon:
//   laplace, discrete_laplace     sensitivity / scale, for any number of coordinates
//   exponential_mechanism         its epsilon
// Events without noise must have been dealt with before.
//
// More than `most` distinct poisson_subsampled_gaussian parts are drawn together: on a lattice of powers of a
// ratio, just wide enough, rates are rounded up and noise down for kUpper, the other way for kLower. What is
// rounded up dominates: with M_q = (1 - q) N0 + q N1 and q < r, M_q = (1 - q/r) N0 + (q/r) M_r, and delta is
// convex in the pair and nowhere smaller for (M_r, N0) than for (N0, N0), likewise swapped; and more noise is
// less noise plus an independent rest. The two bounds show together what it costs.
std::optional<std::vector<PairCount>> loss_pairs_of(const Schedule& schedule, Side side, size_t most);

}  // namespace dpfa::accounting
