// Whether what a ledger says of noise shares fits together: a chain of digests can be rewritten as a whole,
// and a larger share, more ranks or a smaller sensitivity would then claim less epsilon than the run has.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace dpfa::accounting {

// Empty, or a sentence that names the field of `event` (a charge, or the plan's own event) that contradicts
// the plan of line 1 or, unless it is null, the process start that made the charge:
//   share_sigma sqrt(ranks - colluding_ranks) = noise_multiplier x sensitivity,
//   sensitivity x 2^lane_exponent = the plan's sensitivity >= max_grad_norm + sqrt(P) / 2 x 2^grid_exponent,
//   dimension = P = trainable_parameters, all of it rounded where the lanes are coarser than the grid,
//   sample_rate and colluding_ranks are the plan's; ranks, share_sigma and colluding_ranks those of the
//   start.
// Events of other mechanisms have none. A field that is missing or no number is a contradiction.
std::string share_contradiction(const nlohmann::json& plan, const nlohmann::json& start,
                                const nlohmann::json& event);

}  // namespace dpfa::accounting
