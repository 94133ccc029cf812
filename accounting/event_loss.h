// Pairs of laws that dominate events, for accountants that work on privacy losses.
#pragma once

#include <optional>
#include <vector>

#include "accounting/pld/composition.h"
#include "accounting/schedule.h"

namespace dpfa::accounting {

// One pair for every distinct part of the schedule; nothing where there are more than 512 of them, or a part
// has no pair that is proved to dominate it:
//   gaussian                      all of them one Gaussian: the joint loss is normal
//   poisson_subsampled_gaussian   (1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2); not for replace_one
//   poisson_subsampled_discrete_gaussian, poisson_subsampled_noise_shares
//                                 the sampled Gaussian of dominating_noise_multiplier (noise_shares.h), where
//                                 sigma >= 4; the caller adds the allowance of the same header
//   truncated_poisson...          the mixture of truncation_probability (mechanism_rdp.h)
//   randomized_response           its own probabilities
//   approximate_dp                Kairouz, Oh and Viswanath 2015; so the events with a pure epsilon:
//   laplace, discrete_laplace     sensitivity / scale, for any number of coordinates
//   exponential_mechanism         its epsilon
// Events without noise, and parts with noise 0 alike, must have been dealt with before.
std::optional<std::vector<PairCount>> loss_pairs_of(const Schedule& schedule);

}  // namespace dpfa::accounting
