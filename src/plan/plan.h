// PrivacyPlan: everything that decides what is released and what it costs, derived once and then frozen.
//
// It is the only place that turns configuration into sampling rate, sensitivity, noise standard deviation,
// divisor, grid and accounting event. Runtime choices (microbatch, threads, compute type, rank count) have no
// way in: the digest does not depend on them. Validation depends on public configuration only.
//
// Grid: sums are integers in units of grid() = 2^grid_exponent, the largest power of two not above
// max_grad_norm x 2^-22. Sensitivity (L2, add or remove one record) of the integer sum:
//   max_grad_norm x (1 + slack),  slack = sqrt(P) / 2 x grid / max_grad_norm + 2^-20
// where P is the number of trainable parameters: rounding a contribution to integers moves each coordinate by
// at most half a unit, and 2^-20 covers the fp32 scaling of one example's gradient (three roundings of 2^-24
// relative each). numerics = fp32 adds 2^-8, the certified error of its norms and products (kGramSlack in
// kernels/norm_route.h). Either clipping rule brings a record's gradient to a norm of at most max_grad_norm
// (kernels/clip_rule.h), so all of this is the same for both.
// noise stddev = noise_multiplier x sensitivity, on the sum.
// constant_step_slots belongs to the plan too: a step leaves out what is drawn beyond its room, and part of
// target_delta pays for that (accountant.h: delta_left).
// With noise = shares the number of ranks, the colluding ones and the lanes belong to the plan
// (share_layout.h), the grid may be coarser, and the noise stddev is that of all shares together.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/event.h"
#include "src/base/random/rank_contribution.h"
#include "src/plan/config.h"

namespace dpfa::plan {

// noise = shares.
struct NoiseShares {
  int64_t ranks = 0, colluding_ranks = 0;  // N and t
  int lane_bits = 0;
  RankShare share;
};

struct RunFacts;

// Under constant_step_slots the draws of some rank in one step exceed their room with less than this
// probability (src/data/sampler.h).
inline constexpr double kOverrun = 0x1p-60;

class PrivacyPlan {
 public:
  // Throws ConfigError (missing or contradicting keys, q > 1, C <= 0, steps <= 0, ...) and Unsupported (a
  // mode, relation, unit, clipping rule or loss that has no sound implementation in this build). `numerics`
  // of the config must be resolved ("exact" or "fp32"; the trainer resolves "auto" by measurement). With
  // target_epsilon the noise_multiplier is calibrated for steps + reserve_steps charges. `constant_work`:
  // runtime.constant_step_slots.
  static PrivacyPlan derive(const PrivacyConfig& privacy, const AggregationConfig& aggregation,
                            int64_t trainable_parameters, bool constant_work = false);
  // The plan that a ledger's open line describes; throws StateError where a field is missing or does not fit.
  static PrivacyPlan from_json(const nlohmann::json& fields);
  // The same plan (noise multiplier, grid, claim against colluding_ranks) where a run with noise = shares
  // goes on with another number of ranks; noise = after_sum: this plan. Throws as derive() where it has no
  // room.
  PrivacyPlan for_ranks(int64_t ranks) const;

  bool is_private() const;             // false: enabled = false; no epsilon exists
  double sample_rate() const;          // q
  double expected_batch_size() const;  // the divisor, public
  int64_t steps() const;               // T of the plan
  int64_t max_charges() const;         // steps + reserve_steps
  double noise_multiplier() const;
  double max_grad_norm() const;         // C
  const std::string& clipping() const;  // flat | automatic
  double slack() const;
  double sensitivity() const;     // C (1 + slack)
  double noise_stddev() const;    // on the sum, before the divisor
  int grid_exponent() const;      // of one record's integers
  double grid() const;            // 2^grid_exponent
  double lane_grid() const;       // of the integers that ranks sum; grid() unless shares are on a coarser one
  double target_delta() const;    // only where is_private()
  double target_epsilon() const;  // only where is_private(); infinity where noise_multiplier was given
  double draw_overrun() const;    // kOverrun where work is constant; 0: no draw is left out
  const std::string& numerics() const;
  const std::string& generator() const;
  const std::string& loss() const;
  const std::string& aggregation_mode() const;      // plaintext | masked
  std::optional<NoiseShares> noise_shares() const;  // nothing: noise = after_sum
  accounting::Event event() const;                  // of one step; only where is_private()
  // Of `charges` of `event`, at target_delta: what is reported.
  accounting::EpsilonReport epsilon_of(const accounting::Event& event, int64_t charges) const;
  // Largest number of charges whose epsilon does not exceed what was planned: with target_epsilon the last
  // one within the target, otherwise max_charges(). Without privacy there is no limit (the largest int64_t).
  int64_t allowed_charges() const;

  nlohmann::json to_json() const;             // all public fields, as they enter the ledger's open line
  std::string digest() const;                 // BLAKE2b-256 in hex over to_json()
  std::vector<std::string> warnings() const;  // e.g. delta larger than 1 / dataset_size
  // The privacy statement: unit, relation, sampler, q, sigma, C, steps, epsilon at delta, accountant, and in
  // words whom it protects from whom and from whom not.
  std::string statement() const;
  std::string statement(const RunFacts& facts) const;  // with what the run does outside its plan (claims.h)

 private:
  static PrivacyPlan rederived(const nlohmann::json& fields);
  int64_t steps_at(double delta) const;
  nlohmann::json fields_;
};

}  // namespace dpfa::plan
