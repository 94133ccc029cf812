// Sums over ranks to which every rank adds a share of the noise of its own, in whole units of a public grid.
//
// One step: every record enters with probability sample_rate; each of N ranks adds up the contributions of
// its records, rounds that sum to whole units by one dither (or has whole contributions), adds discrete
// Gaussian noise of parameter share_sigma in every coordinate, and the sum of all ranks is released. Who
// knows t of the shares subtracts them and is left with the noise of N - t: S = share_sigma sqrt(N - t).
//
// docs/dithered_rounding.md proves every bound of this page. Bounds hold for both directions of
// add_or_remove_one (and the pair of zero_out).
#pragma once

#include <cstdint>

#include "accounting/gaussian_event.h"

namespace dpfa::accounting {

struct Schedule;

struct NoiseSharesEvent {
  double sample_rate = 0;
  double share_sigma = 0;       // in grid units, at least kSmallestShare
  int64_t ranks = 1;            // N >= 1
  int64_t colluding_ranks = 0;  // t < N whose shares the observer knows; 0: everybody outside the ranks
  double sensitivity = 1;       // largest L2 norm of one record's contribution before the dither, grid units
  int64_t rounded_dimension = 0;  // coordinates that are dithered; 0: contributions are whole
  int64_t dimension = 1;          // coordinates with noise, >= rounded_dimension
  Relation relation = Relation::kAddOrRemoveOne;
};

// Below it a sum of shares is not close enough to a discrete Gaussian for the bounds of this page.
inline constexpr double kSmallestShare = 4;

// S, rounded down.
double remaining_sigma(const NoiseSharesEvent& event);

// Largest |log(P(x) / Q(x))| in one coordinate for P the sum of the N - t shares and Q the discrete Gaussian
// of parameter S: 4.01 (N - t - 1) e^(-pi^2 share_sigma^2), since each further share adds at most
// 4.01 e^(-2 pi^2 r^2), r^2 = share_sigma^2 k / (k + 1).
double share_log_ratio(const NoiseSharesEvent& event);

// With probability at least 1 - failure over the dither, the rounded difference of two neighbouring sums has
// L2 norm at most `radius`; the dither does not depend on the data. Smaller of D' + sqrt(d), which never
// fails, and R^2 = min over c of (B(c) + log(1 / failure)) / c (Chernoff; B as in mechanism_rdp.h) with
// failure 2^-100. Without rounded coordinates the radius is D'.
struct DitherRadius {
  double radius, failure;
};
DitherRadius dither_radius(double sensitivity, int64_t rounded_dimension);

// D_order of one step: the bound of sampled_discrete_gaussian_rdp at S plus
// d share_log_ratio (2 a - 1) / (a - 1).
double noise_shares_rdp(const NoiseSharesEvent& event, double order);

// The noise multiplier of the Poisson-sampled continuous Gaussian whose pair of laws dominates one step,
// outside `failure` and up to a log ratio of d (4.01 e^(-16 pi^2) + share_log_ratio): sqrt(S^2 - 8) / radius.
double dominating_noise_multiplier(const NoiseSharesEvent& event);

// What a schedule's releases may differ by from the laws that bounds are computed for, over all charges.
struct Allowance {
  double failure = 0;     // probability that some dither exceeds its radius: added to delta
  double log_ratio = 0;   // of each of the two laws to the continuous one; losses only
  double chi_square = 0;  // of each of the two laws as drawn (discrete_gaussian.h) to its ideal

  // Epsilon is raised by 3 shift and delta by shift x delta + this. P'(E) <= (1 + h) P(E) + X / h for X =
  // chi_square and any h > 0 (Cauchy and Schwarz).
  double sampler_delta(double epsilon, double shift) const;
};
Allowance allowance_of(const Schedule& schedule);

}  // namespace dpfa::accounting
