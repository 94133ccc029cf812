#include "accounting/share_ledger.h"

#include <cmath>
#include <vector>

namespace dpfa::accounting {
namespace {

using nlohmann::json;

constexpr double kRounding = 1e-12;  // of products and roots, relative

bool is_near(double value, double expected) {
  return std::abs(value - expected) <= kRounding * std::abs(expected);
}

std::string sentence(const std::string& field, const json& event, const std::string& against) {
  return "a charge of noise shares has " + field + " " + event.at(field).dump() + ", which contradicts " +
         against;
}

std::string against_start(const json& start, const json& event) {
  const std::vector<std::pair<const char*, const char*>> same = {
      {"ranks", "world_size"}, {"colluding_ranks", "colluding_ranks"}, {"share_sigma", "share_sigma"}};
  for (const auto& [field, of_start] : same)
    if (event.at(field) != start.at(of_start))
      return sentence(field, event,
                      std::string(of_start) + " " + start.at(of_start).dump() + " of its process start");
  return {};
}

std::string against_plan(const json& plan, const json& event) {
  for (const char* field : {"sample_rate", "colluding_ranks"})
    if (event.at(field) != plan.at(field))
      return sentence(field, event, "the plan's " + plan.at(field).dump());
  const json& parameters = plan.at("trainable_parameters");
  if (event.at("dimension") != parameters)
    return sentence("dimension", event, "trainable_parameters " + parameters.dump() + " of the plan");
  const int lane = plan.at("lane_exponent").get<int>(), grid = plan.at("grid_exponent").get<int>();
  if (event.at("rounded_dimension") != (lane > grid ? parameters : json(0)))
    return sentence("rounded_dimension", event, "the grid and the lanes of the plan");

  const double sensitivity = event.at("sensitivity").get<double>(),
               planned = plan.at("sensitivity").get<double>();
  const double least =
      plan.at("max_grad_norm").get<double>() + std::ldexp(std::sqrt(parameters.get<double>()) / 2, grid);
  if (!is_near(std::ldexp(sensitivity, lane), planned) || !(planned >= least * (1 - kRounding)))
    return sentence("sensitivity", event, "the plan's sensitivity, clipping norm and grid");
  const double honest = event.at("ranks").get<double>() - event.at("colluding_ranks").get<double>();
  const double noise = plan.at("noise_multiplier").get<double>() * sensitivity;
  if (!is_near(event.at("share_sigma").get<double>() * std::sqrt(honest), noise))
    return sentence("share_sigma", event,
                    "the plan: shares of the ranks that do not collude must add up to noise_multiplier x "
                    "sensitivity = " +
                        json(noise).dump());
  return {};
}

}  // namespace

std::string share_contradiction(const json& plan, const json& start, const json& event) {
  if (!event.is_object() || event.value("mechanism", json()) != "poisson_subsampled_noise_shares") return {};
  try {
    const std::string problem = start.is_null() ? std::string() : against_start(start, event);
    return problem.empty() ? against_plan(plan, event) : problem;
  } catch (const json::exception& error) {
    return std::string("what the ledger says of noise shares is not complete: ") + error.what();
  }
}

}  // namespace dpfa::accounting
