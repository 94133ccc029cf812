#include "accounting/accountant.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "accounting/event_loss.h"
#include "accounting/hockey_stick.h"
#include "accounting/noise_shares.h"
#include "accounting/rdp.h"
#include "accounting/schedule.h"
#include "src/base/error.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// More than the rounding of the closed forms (1e-14) and of the divergences (1e-12).
constexpr double kExactSlack = 1e-12;
constexpr double kRenyiSlack = 1e-10;

struct Upper {
  double value;  // epsilon, or log delta
  double order;
  std::string accountant;
};

const PoissonSampledGaussianEvent* sampled(const Event& event) {
  return std::get_if<PoissonSampledGaussianEvent>(&event);
}

bool without_noise(const Event& event) {
  if (const auto* gaussian = std::get_if<GaussianEvent>(&event)) return gaussian->noise_multiplier == 0;
  return sampled(event) != nullptr && sampled(event)->noise_multiplier == 0;
}

// One Gaussian that is equivalent to all parts, 0 where not all of them are plain Gaussians with noise.
double equivalent_noise(const Schedule& schedule) {
  double precision = 0;
  for (const auto& [event, count] : schedule.parts) {
    const auto* gaussian = std::get_if<GaussianEvent>(&event);
    if (gaussian == nullptr || gaussian->noise_multiplier == 0) return 0;
    precision += static_cast<double>(count) / gaussian->noise_multiplier / gaussian->noise_multiplier;
  }
  return 1 / std::sqrt(precision);
}

double one_step_log_delta(double rate, double noise, double epsilon) {
  const LogDelta base = [noise](double e) { return gaussian_log_delta(noise, e); };
  return std::max(sampled_log_delta(base, rate, epsilon, Direction::kRemove),
                  sampled_log_delta(base, rate, epsilon, Direction::kAdd));
}

// Calls `exact` with the log delta of the composition where that is known in closed form; else the smaller of
// `renyi` and, where the events have dominating pairs, `losses`.
template <typename Exact, typename Renyi, typename Losses>
Upper upper_bound(const Schedule& schedule, double when_free, double when_open, const Exact& exact,
                  const Renyi& renyi, const Losses& losses) {
  const std::vector<Charge>& parts = schedule.parts;
  if (parts.empty()) return {when_free, 0, "trivial"};
  for (const Charge& part : parts) {
    if (without_noise(part.event)) return {when_open, 0, "trivial"};
  }
  if (const double noise = equivalent_noise(schedule); noise > 0) {
    return {exact([noise](double epsilon) { return gaussian_log_delta(noise, epsilon); }), 0, "gaussian"};
  }
  if (parts.size() == 1 && parts[0].count == 1 && sampled(parts[0].event) != nullptr &&
      schedule.relation != Relation::kReplaceOne) {
    const double rate = sampled(parts[0].event)->sample_rate,
                 noise = sampled(parts[0].event)->noise_multiplier;
    return {exact([rate, noise](double epsilon) { return one_step_log_delta(rate, noise, epsilon); }), 0,
            "one_step"};
  }
  ScheduleRdp rdp(schedule);
  const OrderBound best = renyi([&rdp](double order) { return rdp(order) * (1 + kRenyiSlack); });
  if (const auto pairs = loss_pairs_of(schedule, Side::kUpper)) {
    if (const double value = losses(*pairs); value < best.value) return {value, 0, "pld"};
  }
  return {best.value, best.order, "rdp"};
}

// The h of noise_shares.h that are tried: each costs 3 h of epsilon and at most 2 h of delta, relatively.
constexpr double kShifts[] = {1e-6, 1e-4, 1e-2};

// What is left of delta for the parts that hold only when no approximate_dp part fails; 0 or less: nothing.
double remaining_delta(const Schedule& schedule, double delta) {
  const double log_survival = log_no_failure(schedule);
  return log_survival == 0 ? delta : -std::expm1(std::log1p(-delta) - log_survival);
}

// For releases that are drawn exactly from their laws.
Upper ideal_epsilon_upper(const Schedule& schedule, double delta, const Allowance& allowance) {
  return upper_bound(
      schedule, 0, kInfinity,
      [delta](const LogDelta& log_delta) { return smallest_epsilon(log_delta, delta * (1 - kExactSlack)); },
      [&schedule, delta](const RdpCurve& curve) {
        const double remaining = remaining_delta(schedule, delta);
        if (remaining < 0) return OrderBound{kInfinity, 0};
        return best_epsilon(curve, remaining);
      },
      [delta, &allowance](const LossPairs& pairs) {
        // Laws P', Q' within e^+-r of P, Q: delta'(e + 2 r) <= e^r delta(e).
        const double left = (delta - allowance.failure) * std::exp(-allowance.log_ratio);
        if (left < 0) return kInfinity;
        return loss_epsilon_upper(pairs, left) + 2 * allowance.log_ratio;
      });
}

Upper epsilon_upper(const Schedule& schedule, double delta) {
  if (!(delta >= 0 && delta < 1)) {
    throw ConfigError("delta " + std::to_string(delta) + ": expected a number from 0 to below 1");
  }
  const Allowance allowance = allowance_of(schedule);
  Upper upper{kInfinity, 0, "rdp"};  // no bound was found, which is no lower bound
  if (allowance.chi_square == 0) {
    upper = ideal_epsilon_upper(schedule, delta, allowance);
  } else {
    for (double shift : kShifts) {
      Upper shifted = ideal_epsilon_upper(schedule, delta * (1 - 2 * shift), allowance);
      shifted.value += 3 * shift;
      if (!(allowance.sampler_delta(shifted.value, shift) <= shift * delta)) continue;
      upper = shifted;
      break;
    }
  }
  upper.value *= 1 + kExactSlack;
  return upper;
}

Upper ideal_log_delta_upper(const Schedule& schedule, double epsilon, const Allowance& allowance) {
  return upper_bound(
      schedule, -kInfinity, 0, [epsilon](const LogDelta& log_delta) { return log_delta(epsilon); },
      [&schedule, epsilon](const RdpCurve& curve) {
        OrderBound best = best_log_delta(curve, epsilon);
        const double failure = -std::expm1(log_no_failure(schedule));
        if (failure > 0) best.value = std::log(failure + (1 - failure) * std::exp(best.value));
        return best;
      },
      [epsilon, &allowance](const LossPairs& pairs) {
        const double likely =
            loss_log_delta_upper(pairs, epsilon - 2 * allowance.log_ratio) + allowance.log_ratio;
        return allowance.failure == 0 ? likely : std::log(std::exp(likely) + allowance.failure);
      });
}

Upper log_delta_upper(const Schedule& schedule, double epsilon) {
  if (!(epsilon >= 0)) throw ConfigError("epsilon " + std::to_string(epsilon) + ": expected at least 0");
  const Allowance allowance = allowance_of(schedule);
  if (allowance.chi_square == 0) return ideal_log_delta_upper(schedule, epsilon, allowance);
  Upper least{0, 0, "trivial"};
  for (double shift : kShifts) {
    if (epsilon < 3 * shift) continue;
    Upper upper = ideal_log_delta_upper(schedule, epsilon - 3 * shift, allowance);
    upper.value = std::log((1 + shift) * std::exp(upper.value) + allowance.sampler_delta(epsilon, shift));
    if (upper.value < least.value) least = upper;
  }
  return least;
}

// Whether some neighbours' outputs have the very pair of loss_pairs_of.
bool attains_its_pair(const Event& event) {
  return std::holds_alternative<GaussianEvent>(event) || sampled(event) != nullptr ||
         std::holds_alternative<RandomizedResponseEvent>(event) ||
         std::holds_alternative<ApproximateDpEvent>(event);
}

// No post-processing has a larger epsilon than what it processes, so any part of the run bounds the whole.
double epsilon_lower(const Schedule& schedule, const Upper& upper, double delta) {
  if (upper.accountant != "rdp" && upper.accountant != "pld")
    return std::isinf(upper.value) ? upper.value : upper.value * (1 - 1e-9);
  Schedule attained{schedule.relation, {}};
  for (const Charge& part : schedule.parts) {
    if (attains_its_pair(part.event)) attained.parts.push_back(part);
  }
  const auto pairs = loss_pairs_of(attained, Side::kLower);
  return pairs ? std::min(upper.value, loss_epsilon_lower(*pairs, delta)) : 0;
}

}  // namespace

EpsilonReport epsilon_of(std::span<const Charge> charges, double delta) {
  const Schedule schedule = simplify(charges);
  const Upper upper = epsilon_upper(schedule, delta);
  return {upper.value, delta, epsilon_lower(schedule, upper, delta), upper.accountant, upper.order};
}

double delta_left(double delta, double epsilon, double deviation) {
  if (deviation == 0 || DPFA_PLANT("overrun_costs_nothing")) return delta;
  return std::nextafter(delta - (1 + std::exp(epsilon)) * deviation * (1 + kExactSlack), -1.0);
}

EpsilonReport epsilon_of(std::span<const Charge> charges, double delta, double deviation) {
  constexpr int kMostRounds = 50;
  EpsilonReport report = epsilon_of(charges, delta);
  if (deviation == 0) return report;
  const Schedule schedule = simplify(charges);
  // From below: the more epsilon, the less is left of delta, and the more epsilon.
  for (int round = 0; round < kMostRounds; ++round) {
    const double left = delta_left(delta, report.epsilon, deviation);
    if (!(left > 0)) break;
    const Upper next = epsilon_upper(schedule, left);
    if (next.value <= report.epsilon) return report;
    report.epsilon = next.value;
    report.accountant = next.accountant;
    report.order = next.order;
  }
  report.epsilon = kInfinity;
  return report;
}

EpsilonReport epsilon_of(const Event& event, int64_t count, double delta) {
  const Charge charge{event, count};
  return epsilon_of(std::span(&charge, 1), delta);
}

double epsilon_upper_bound(std::span<const Charge> charges, double delta) {
  return epsilon_upper(simplify(charges), delta).value;
}

double epsilon_upper_bound(const Event& event, int64_t count, double delta) {
  const Charge charge{event, count};
  return epsilon_upper_bound(std::span(&charge, 1), delta);
}

double delta_of(std::span<const Charge> charges, double epsilon) {
  const Upper upper = log_delta_upper(simplify(charges), epsilon);
  return std::min(1.0, std::exp(upper.value) * (1 + kRenyiSlack));
}

double delta_of(const Event& event, int64_t count, double epsilon) {
  const Charge charge{event, count};
  return delta_of(std::span(&charge, 1), epsilon);
}

double true_positive_rate_bound(std::span<const Charge> charges, double fpr) {
  if (!(fpr >= 0 && fpr <= 1))
    throw ConfigError("false-positive rate " + std::to_string(fpr) + ": expected a number from 0 to 1");
  const Schedule schedule = simplify(charges);
  if (schedule.parts.empty()) return fpr;
  for (const Charge& part : schedule.parts)
    if (without_noise(part.event)) return 1;
  double least = 1;
  const Allowance allowance = allowance_of(schedule);
  const bool is_ideal = allowance.failure == 0 && allowance.log_ratio == 0 && allowance.chi_square == 0;
  if (const auto pairs = loss_pairs_of(schedule, Side::kUpper); pairs && is_ideal) {
    least = loss_power_upper(*pairs, fpr);
  } else {
    for (double epsilon = 1e-3; epsilon < 700; epsilon *= 1.05)
      least = std::min(least, delta_of(charges, epsilon) + std::exp(epsilon) * fpr);
  }
  return std::min(1.0, least * (1 + kRenyiSlack));
}

std::string relation_of(const Event& event) { return relation_name(relation(event)); }

}  // namespace dpfa::accounting
