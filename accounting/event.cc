#include "accounting/event.h"

#include <cmath>
#include <initializer_list>

#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

constexpr const char* kGaussian = "gaussian";
constexpr const char* kPoissonSampledGaussian = "poisson_subsampled_gaussian";

// A field that nobody reads could have changed the meaning of the event, so the names must match exactly.
void require_fields(const nlohmann::json& json, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (!json.contains(name) || !json.at(name).is_number()) {
      throw Unsupported("event " + json.dump() + " lacks the number '" + name + "'");
    }
  }
  if (json.size() != names.size() + 1) {
    throw Unsupported("event " + json.dump() + " has fields that this program does not know");
  }
}

}  // namespace

nlohmann::json to_json(const Event& event) {
  if (const auto* gaussian = std::get_if<GaussianEvent>(&event)) {
    return {{"mechanism", kGaussian}, {"noise_multiplier", gaussian->noise_multiplier}};
  }
  const auto& sampled = std::get<PoissonSampledGaussianEvent>(event);
  return {{"mechanism", kPoissonSampledGaussian},
          {"sample_rate", sampled.sample_rate},
          {"noise_multiplier", sampled.noise_multiplier}};
}

Event event_from_json(const nlohmann::json& json) {
  if (!json.is_object() || !json.contains("mechanism") || !json.at("mechanism").is_string()) {
    throw Unsupported("event " + json.dump() + " names no mechanism");
  }
  const std::string mechanism = json.at("mechanism");
  Event event;
  if (mechanism == kGaussian) {
    require_fields(json, {"noise_multiplier"});
    event = GaussianEvent{json.at("noise_multiplier")};
  } else if (mechanism == kPoissonSampledGaussian) {
    require_fields(json, {"sample_rate", "noise_multiplier"});
    event = PoissonSampledGaussianEvent{json.at("sample_rate"), json.at("noise_multiplier")};
  } else {
    throw Unsupported("event " + json.dump() + ": the mechanism '" + mechanism +
                      "' has no accountant in this program");
  }
  check_event(event);
  return event;
}

void check_event(const Event& event) {
  const auto* sampled = std::get_if<PoissonSampledGaussianEvent>(&event);
  const double noise_multiplier =
      sampled != nullptr ? sampled->noise_multiplier : std::get<GaussianEvent>(event).noise_multiplier;
  const double sample_rate = sampled != nullptr ? sampled->sample_rate : 1.0;
  if (!(noise_multiplier >= 0) || std::isinf(noise_multiplier)) {
    throw ConfigError("noise multiplier " + std::to_string(noise_multiplier) +
                      ": expected a finite number >= 0");
  }
  if (!(sample_rate >= 0) || !(sample_rate <= 1)) {
    throw ConfigError("sample rate " + std::to_string(sample_rate) + ": expected a number from 0 to 1");
  }
}

}  // namespace dpfa::accounting
