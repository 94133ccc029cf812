// A small ledger for tests, as the trainer writes one.
#pragma once

#include <cmath>
#include <string>

#include <nlohmann/json.hpp>

#include "accounting/event.h"
#include "accounting/ledger.h"
#include "accounting/ledger_chain.h"

namespace dpfa::accounting::testing {

inline nlohmann::json event() { return to_json(PoissonSampledGaussianEvent{0.03125, 1.25}); }

inline nlohmann::json open_fields(bool is_private = true) {
  const nlohmann::json plan = {{"steps", 10}, {"target_delta", 1e-5}, {"event", event()}};
  return {{"run_id", "made-up"},
          {"dataset_id", "00ff"},
          {"plan", plan},
          {"plan_digest", blake2b_hex(plan.dump())},
          {"private", is_private},
          {"stamps", is_private ? nlohmann::json::array() : nlohmann::json::array({"insecure seed 7"})}};
}

// A step of `ranks` ranks with shares of noise that leave noise_multiplier x sensitivity against `colluding`.
struct ShareRun {
  int64_t ranks = 4, colluding_ranks = 1;
  double sample_rate = 0.05, noise_multiplier = 1.1;
  int64_t parameters = 1000;
  int lane_exponent = -20, grid_exponent = -22;  // dithered; equal: whole contributions
  double max_grad_norm = 1;
  int64_t steps = 10;

  double slack() const {
    return std::ldexp(std::sqrt(static_cast<double>(parameters)) / 2, grid_exponent) + 0x1p-20;
  }
  NoiseSharesEvent event() const {
    const double sensitivity = std::ldexp(max_grad_norm * (1 + slack()), -lane_exponent);
    return {
        sample_rate, noise_multiplier * sensitivity / std::sqrt(static_cast<double>(ranks - colluding_ranks)),
        ranks,       colluding_ranks,
        sensitivity, lane_exponent > grid_exponent ? parameters : 0,
        parameters};
  }
  nlohmann::json plan() const {
    return {{"steps", steps},
            {"target_delta", 1e-5},
            {"event", to_json(event())},
            {"sample_rate", sample_rate},
            {"noise_multiplier", noise_multiplier},
            {"colluding_ranks", colluding_ranks},
            {"ranks", ranks},
            {"trainable_parameters", parameters},
            {"lane_exponent", lane_exponent},
            {"grid_exponent", grid_exponent},
            {"max_grad_norm", max_grad_norm},
            {"sensitivity", max_grad_norm * (1 + slack())}};
  }
  nlohmann::json start() const {
    return {{"id", "s" + std::to_string(ranks)},
            {"world_size", ranks},
            {"colluding_ranks", colluding_ranks},
            {"share_sigma", event().share_sigma}};
  }
};

// The open line of a run with this plan.
inline nlohmann::json open_fields_of(const nlohmann::json& plan) {
  nlohmann::json fields = open_fields();
  fields["plan"] = plan;
  fields["plan_digest"] = blake2b_hex(plan.dump());
  return fields;
}

// The ledger of a run in which one process start charged `charges` steps.
inline Ledger ledger_of(const nlohmann::json& plan, const nlohmann::json& start, const nlohmann::json& event,
                        int charges = 3) {
  Ledger ledger = Ledger::in_memory(open_fields_of(plan));
  ledger.start(start);
  for (int i = 0; i < charges; ++i) ledger.charge(i, i, event);
  return ledger;
}
inline Ledger ledger_of(const ShareRun& run) {
  return ledger_of(run.plan(), run.start(), to_json(run.event()));
}
// The ledger of a run that charged `steps` steps and then, started anew as `later`, `later_steps` more.
inline Ledger ledger_of(const ShareRun& run, int steps, const ShareRun& later, int later_steps) {
  Ledger ledger = ledger_of(run.plan(), run.start(), to_json(run.event()), steps);
  ledger.start(later.start());
  for (int i = steps; i < steps + later_steps; ++i) ledger.charge(i, i, to_json(later.event()));
  return ledger;
}

}  // namespace dpfa::accounting::testing
