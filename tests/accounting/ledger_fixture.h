// A small ledger for tests, as the trainer writes one.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "accounting/event.h"
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

}  // namespace dpfa::accounting::testing
