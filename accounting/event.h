// A mechanism as data: what was released, said in numbers that any accountant can judge.
//
// Meanings never change and events are never removed; an accountant that cannot bound one throws Unsupported.
#pragma once

#include <string>
#include <variant>

#include <nlohmann/json.hpp>

namespace dpfa::accounting {

// Gaussian noise with standard deviation noise_multiplier x L2 sensitivity (of the stated relation).
struct GaussianEvent {
  double noise_multiplier;
};

// Each record enters the sum independently with sample_rate; then Gaussian noise as above, where the
// sensitivity is that of adding or removing one record. Relation: add_or_remove_one.
struct PoissonSampledGaussianEvent {
  double sample_rate;       // in (0, 1]
  double noise_multiplier;  // > 0
};

using Event = std::variant<GaussianEvent, PoissonSampledGaussianEvent>;

// {"mechanism": "poisson_subsampled_gaussian", "sample_rate": q, "noise_multiplier": s} and the like; doubles
// survive the round trip to the last bit. event_from_json throws Unsupported on an unknown mechanism or
// field.
nlohmann::json to_json(const Event& event);
Event event_from_json(const nlohmann::json& json);

// Throws ConfigError unless 0 <= sample_rate <= 1 and 0 <= noise_multiplier < infinity. The edges are events
// too: no noise costs infinity, a rate of 0 costs nothing.
void check_event(const Event& event);

}  // namespace dpfa::accounting
