#include "accounting/accountant.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "accounting/hockey_stick.h"
#include "accounting/lower_bound.h"
#include "accounting/rdp.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// More than the rounding of the closed forms (1e-14) and of the divergences (1e-12).
constexpr double kExactSlack = 1e-12;
constexpr double kRenyiSlack = 1e-10;

// Sample rate and noise multiplier to count; what costs nothing is left out. One Gaussian is one step with q
// = 1.
using Steps = std::map<std::pair<double, double>, int64_t>;

struct Upper {
  double value;  // epsilon, or log delta
  double order;
  std::string accountant;
};

Steps merge(std::span<const Charge> charges) {
  Steps steps;
  for (const Charge& charge : charges) {
    check_event(charge.event);
    if (charge.count < 0)
      throw ConfigError("count " + std::to_string(charge.count) + ": expected at least 0");
    const auto* sampled = std::get_if<PoissonSampledGaussianEvent>(&charge.event);
    const double rate = sampled != nullptr ? sampled->sample_rate : 1;
    const double noise = sampled != nullptr ? sampled->noise_multiplier
                                            : std::get<GaussianEvent>(charge.event).noise_multiplier;
    if (charge.count > 0 && rate > 0) steps[{rate, noise}] += charge.count;
  }
  return steps;
}

// One Gaussian that is equivalent to all steps, 0 where not all of them are plain Gaussians with noise.
double equivalent_noise(const Steps& steps) {
  double precision = 0;
  for (const auto& [key, count] : steps) {
    if (key.first < 1 || key.second == 0) return 0;
    precision += static_cast<double>(count) / key.second / key.second;
  }
  return 1 / std::sqrt(precision);
}

double one_step_log_delta(double rate, double noise, double epsilon) {
  const LogDelta base = [noise](double e) { return gaussian_log_delta(noise, e); };
  return std::max(sampled_log_delta(base, rate, epsilon, Direction::kRemove),
                  sampled_log_delta(base, rate, epsilon, Direction::kAdd));
}

double renyi_of(const Steps& steps, double order) {
  double sum = 0;
  for (const auto& [key, count] : steps) {
    sum += static_cast<double>(count) * sampled_gaussian_rdp(key.first, key.second, order);
  }
  return sum * (1 + kRenyiSlack);
}

// Calls `exact` with the log delta of the composition where that is known in closed form, else `renyi`.
template <typename Exact, typename Renyi>
Upper upper_bound(const Steps& steps, double when_free, double when_open, const Exact& exact,
                  const Renyi& renyi) {
  if (steps.empty()) return {when_free, 0, "trivial"};
  for (const auto& [key, count] : steps) {
    if (key.second == 0) return {when_open, 0, "trivial"};
  }
  if (const double noise = equivalent_noise(steps); noise > 0) {
    return {exact([noise](double epsilon) { return gaussian_log_delta(noise, epsilon); }), 0, "gaussian"};
  }
  if (steps.size() == 1 && steps.begin()->second == 1) {
    const auto [rate, noise] = steps.begin()->first;
    return {exact([rate, noise](double epsilon) { return one_step_log_delta(rate, noise, epsilon); }), 0,
            "one_step"};
  }
  const OrderBound best = renyi([&steps](double order) { return renyi_of(steps, order); });
  return {best.value, best.order, "rdp"};
}

Upper epsilon_upper(const Steps& steps, double delta) {
  if (!(delta >= 0 && delta < 1)) {
    throw ConfigError("delta " + std::to_string(delta) + ": expected a number from 0 to below 1");
  }
  Upper upper = upper_bound(
      steps, 0, kInfinity,
      [delta](const LogDelta& log_delta) { return smallest_epsilon(log_delta, delta * (1 - kExactSlack)); },
      [delta](const RdpCurve& curve) { return best_epsilon(curve, delta); });
  upper.value *= 1 + kExactSlack;
  return upper;
}

// No post-processing has a larger epsilon than what it processes, so any part of the run bounds the whole.
double epsilon_lower(const Steps& steps, const Upper& upper, double delta) {
  if (upper.accountant != "rdp") return std::isinf(upper.value) ? upper.value : upper.value * (1 - 1e-9);
  double best = 0;
  for (const auto& [key, count] : steps) {
    const auto [rate, noise] = key;
    const Steps part = {{key, rate == 1 ? count : 1}};
    best = std::max(best, epsilon_upper(part, delta).value * (1 - 1e-9));
    best = std::max(best, sum_epsilon_lower_bound(rate, noise, count, delta));
  }
  return best;
}

}  // namespace

EpsilonReport epsilon_of(std::span<const Charge> charges, double delta) {
  const Steps steps = merge(charges);
  const Upper upper = epsilon_upper(steps, delta);
  return {upper.value, delta, epsilon_lower(steps, upper, delta), upper.accountant, upper.order};
}

EpsilonReport epsilon_of(const Event& event, int64_t count, double delta) {
  const Charge charge{event, count};
  return epsilon_of(std::span(&charge, 1), delta);
}

double epsilon_upper_bound(const Event& event, int64_t count, double delta) {
  const Charge charge{event, count};
  return epsilon_upper(merge(std::span(&charge, 1)), delta).value;
}

double delta_of(const Event& event, int64_t count, double epsilon) {
  if (!(epsilon >= 0)) throw ConfigError("epsilon " + std::to_string(epsilon) + ": expected at least 0");
  const Charge charge{event, count};
  const Upper upper = upper_bound(
      merge(std::span(&charge, 1)), -kInfinity, 0,
      [epsilon](const LogDelta& log_delta) { return log_delta(epsilon); },
      [epsilon](const RdpCurve& curve) { return best_log_delta(curve, epsilon); });
  return std::min(1.0, std::exp(upper.value) * (1 + kRenyiSlack));
}

std::string relation_of(const Event&) { return "add_or_remove_one"; }

}  // namespace dpfa::accounting
