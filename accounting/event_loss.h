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
//   poisson_subsampled_discrete_gaussian, poisson_subsampled_noise_shares
//                                 the sampled Gaussian of dominating_noise_multiplier (noise_shares.h), where
//                                 sigma >= 4; the caller adds the allowance of the same header
//   truncated_poisson...          the mixture of truncation_probability (mechanism_rdp.h)
//   randomized_response           its own probabilities
//   approximate_dp                Kairouz, Oh and Viswanath 2015; so the events with a pure epsilon:
//   laplace, discrete_laplace     sensitivity / scale, for any number of coordinates
//   exponential_mechanism         its epsilon
// Events without noise must have been dealt with before.
//
// More than 64 distinct poisson_subsampled_gaussian parts become groups of nodes on a lattice of rates and of
// inverse noises; up to 600 parts are nodes themselves. With M_q = (1 - q) N(0, 1) + q N(m, 1):
//   kUpper  A part with q in [a, b] and m in [m0, m1] is dominated by the lattice's four points around it,
//   drawn
//           publicly. By rate: M_q = (1 - s) M_a + s M_b for s = (q - a) / (b - a), and delta is convex in
//           the pair. By inverse noise: with h_m(e) = delta of N(m, 1) against N(0, 1), dh_m/dm at e is
//           proportional to exp(-m^2 / 8 - e^2 / (2 m^2)) for every m at once, so (h_m - h_m0) / (h_m1 -
//           h_m0) is largest at e = 0, where h is the total variation TV(m) = erf(m / sqrt 8): the mixture of
//           m0 and m1 of the same total variation dominates; and the delta of M_q against N(0, 1) is linear
//           in h.
//   kLower  It dominates the point with the next smaller rate and inverse noise: with q < r, M_q = (1 - q/r)
//   N0
//           + (q/r) M_r, and less noise is more noise before an independent rest was added.
std::optional<LossPairs> loss_pairs_of(const Schedule& schedule, Side side);
// The same where all poisson_subsampled_gaussian parts are on the lattice of powers of 1 + ratio > 1.
std::optional<LossPairs> loss_pairs_on_lattice(const Schedule& schedule, Side side, double ratio);

}  // namespace dpfa::accounting
