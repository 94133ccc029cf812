// noise = shares: which integers travel between ranks, and how much noise each rank adds to them.
//
// Ranks sum signed lanes of lane_bits bits in units of the lane grid, 2^lane_exponent =
// 2^(ilogb(max_grad_norm) - grid_bits). numerics = exact: contributions are whole on that grid. numerics =
// fp32: they are whole on the grid of 2^(ilogb(max_grad_norm) - 22), and a rank's sum is dithered to the lane
// grid, `dither_shift` bits coarser.
//
//   share_sigma = noise_multiplier x sensitivity / sqrt(N - t)   (in lane units)
//   clamp = floor((2^(lane_bits - 1) - 1 - kappa share_sigma sqrt(N)) / N),  kappa = sqrt(2 ln(2 P / p))
//
// Each rank's sum is cut to `clamp` in each coordinate, so a sum of lanes leaves its range in a step with
// probability at most p = overflow_probability (a discrete Gaussian is sub-Gaussian with its parameter:
// Canonne, Kamath, Steinke 2020, lemma 10).
#pragma once

#include <cstdint>

#include "accounting/noise_shares.h"
#include "src/base/random/rank_contribution.h"
#include "src/plan/config.h"

namespace dpfa::plan {

inline constexpr int kContributionGridBits = 22;  // one contribution's integers stay below 2^23

struct ShareLayout {
  int grid_bits = 0;
  int lane_exponent = 0, contribution_exponent = 0;
  double slack = 0;               // of one record's contribution before the dither, relative to max_grad_norm
  double sensitivity = 0;         // max_grad_norm (1 + slack) / 2^lane_exponent, in lane units
  RankShare share;                // what each rank does; in lane units
  int64_t rounded_dimension = 0;  // P where sums are dithered, else 0
};

// slack of a contribution that is rounded to 2^contribution_exponent (plan.h).
double contribution_slack(const PrivacyConfig& privacy, int64_t parameters, int contribution_exponent);

// The layout on a given grid, whether or not the lanes have room for it.
ShareLayout share_layout_on(int grid_bits, const PrivacyConfig& privacy, const AggregationConfig& aggregation,
                            int64_t parameters, double noise_multiplier);

// The layout for this noise_multiplier. grid_bits 0 takes the finest grid (at most 22; numerics = fp32: at
// most 20) on which each rank's sum may reach aggregation.clamp_norms x max_grad_norm. Throws ConfigError
// where no grid, or not the given one, leaves that room, or grid_bits is out of range.
ShareLayout share_layout(const PrivacyConfig& privacy, const AggregationConfig& aggregation,
                         int64_t parameters, double noise_multiplier);

// What one step costs.
accounting::NoiseSharesEvent share_event(const ShareLayout& layout, const AggregationConfig& aggregation,
                                         int64_t parameters, double sample_rate);

// The noise_multiplier that meets target_epsilon at target_delta after `steps` steps, against the ranks that
// may collude; sets aggregation.grid_bits to the grid that it was found for.
double calibrated_shares(const PrivacyConfig& privacy, AggregationConfig& aggregation, int64_t parameters,
                         double sample_rate, int64_t steps);

// Which placements of noise and masks claim something, and which cannot: Unsupported or ConfigError with a
// sentence.
void check_aggregation(const PrivacyConfig& privacy, const AggregationConfig& aggregation);

}  // namespace dpfa::plan
