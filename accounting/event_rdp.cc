// Renyi divergences of events: one release of each simple event, then sums over a schedule.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "accounting/mechanism_rdp.h"
#include "accounting/rdp.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr size_t kMostSampled = 512;

// Where a bound holds at whole orders only: (a - 1) D_a is convex in a and 0 at a = 1, so the chord between
// the whole orders around `order` is an upper bound, and D_2 bounds every order below 2.
template <typename Bound>
double between_whole_orders(double order, const Bound& bound) {
  if (order <= 2) return bound(2.0);
  const double low = std::floor(order);
  if (low == order) return bound(order);
  const double below = (low - 1) * bound(low), above = low * bound(low + 1);
  return (below + (order - low) * (above - below)) / (order - 1);
}

double simple_rdp(const GaussianEvent& e, double order) {
  return sampled_gaussian_rdp(1, e.noise_multiplier, order);
}

double simple_rdp(const PoissonSampledGaussianEvent& e, double order) {
  if (e.relation != Relation::kReplaceOne)
    return sampled_gaussian_rdp(e.sample_rate, e.noise_multiplier, order);
  return replaced_sampled_gaussian_rdp(e.sample_rate, e.noise_multiplier, order);
}

double simple_rdp(const TruncatedPoissonGaussianEvent& e, double order) {
  const double full = truncation_probability(e);
  const double noise = e.noise_multiplier / e.sensitivity;
  const double kept = sampled_gaussian_rdp(e.sample_rate, noise, order);
  const double replaced = sampled_gaussian_rdp(e.sample_rate, noise / 2, order);
  if (full == 0) return kept;
  if (std::isinf(order)) return replaced;
  if (order == 1) return kept + full * (replaced - kept);
  // log of the mixture of moments, relative to the smaller one.
  const double excess = (order - 1) * (replaced - kept);
  const double growth = excess > 700 ? excess + std::log(full) : std::log1p(full * std::expm1(excess));
  return kept + std::min(growth, excess) / (order - 1);
}

double simple_rdp(const LaplaceEvent& e, double order) { return laplace_rdp(e.scale / e.sensitivity, order); }

double simple_rdp(const DiscreteGaussianEvent& e, double order) {
  return sampled_gaussian_rdp(1, e.sigma / e.sensitivity, order);  // 2004.00010, proposition 5
}

double simple_rdp(const PoissonSampledDiscreteGaussianEvent& e, double order) {
  return sampled_discrete_gaussian_rdp(e, order);
}

double simple_rdp(const DiscreteLaplaceEvent& e, double order) {
  return discrete_laplace_rdp(e.parameter, e.sensitivity, order);
}

double simple_rdp(const SkellamEvent& e, double order) {
  if (std::isinf(order) || e.variance == 0) return kInfinity;
  return between_whole_orders(order, [&e](double whole) {
    return skellam_rdp_bound(e.variance, e.l1_sensitivity, e.l2_sensitivity, whole);
  });
}

double simple_rdp(const RandomizedResponseEvent& e, double order) {
  return randomized_response_rdp(e.noise, static_cast<double>(e.buckets), order,
                                 e.relation == Relation::kZeroOut);
}

double simple_rdp(const ExponentialMechanismEvent& e, double order) {
  return exponential_mechanism_rdp(e.epsilon, order);
}

double simple_rdp(const ZeroConcentratedEvent& e, double order) {
  return e.rho == 0 ? e.xi : e.xi + e.rho * order;
}

// What is left of it without its delta, which the schedule carries.
double simple_rdp(const ApproximateDpEvent& e, double order) { return pure_dp_rdp(e.epsilon, order); }

template <typename Other>
double simple_rdp(const Other&, double) {
  throw InternalError("an event that simplify() rewrites has no divergence of its own");
}

// The next power of 1 + ratio on that side; the value itself for ratio 0.
double rounded(double value, double ratio, bool up) {
  if (ratio == 0 || value == 0) return value;
  const double place = std::log(value) / std::log1p(ratio);
  const double power = std::exp((up ? std::ceil(place) : std::floor(place)) * std::log1p(ratio));
  return up ? std::min(1.0, std::max(value, power)) : std::min(value, power);
}

}  // namespace

ScheduleRdp::ScheduleRdp(const Schedule& schedule) {
  std::vector<std::pair<const PoissonSampledGaussianEvent*, int64_t>> sampled;
  for (const Charge& part : schedule.parts) {
    const auto* event = std::get_if<PoissonSampledGaussianEvent>(&part.event);
    const auto* without = std::get_if<SampledWithoutReplacementGaussianEvent>(&part.event);
    if (without != nullptr) {
      without_replacement_.push_back(
          {WithoutReplacementRdp(without->sample_rate, without->noise_multiplier / without->sensitivity),
           static_cast<double>(part.count)});
    } else if (event == nullptr || event->relation == Relation::kReplaceOne) {
      others_.push_back(part);
    } else {
      sampled.push_back({event, part.count});
    }
  }
  std::map<std::pair<double, double>, double> dominating;
  for (double ratio = 0; ratio == 0 || dominating.size() > kMostSampled; ratio = std::max(1e-4, 2 * ratio)) {
    dominating.clear();
    for (const auto& [event, count] : sampled) {
      dominating[{rounded(event->sample_rate, ratio, true),
                  rounded(event->noise_multiplier, ratio, false)}] += static_cast<double>(count);
      if (dominating.size() > kMostSampled) break;
    }
  }
  for (const auto& [key, count] : dominating)
    sampled_.push_back({SampledGaussianRdp(key.first, key.second), count});
}

double ScheduleRdp::operator()(double order) {
  double sum = 0;
  auto add = [&sum](double one, double count) {
    // A negative or NaN divergence is a failed computation; in a sum it would hide others.
    sum += (one >= 0 ? one : kInfinity) * (DPFA_PLANT("count_ignored") ? 1.0 : count);
  };
  for (Sampled& part : sampled_) add(part.rdp(order), part.count);
  for (WithoutReplacement& part : without_replacement_) add(part.rdp(order), part.count);
  for (const Charge& part : others_) {
    add(std::visit([order](const auto& event) { return simple_rdp(event, order); }, part.event),
        static_cast<double>(part.count));
  }
  return sum;
}

double rdp_of(const Schedule& schedule, double order) { return ScheduleRdp(schedule)(order); }

double rdp_of(const Event& event, double order) {
  const Charge charge{event, 1};
  return rdp_of(simplify(std::span(&charge, 1)), order);
}

double log_no_failure(const Schedule& schedule) {
  double sum = 0;
  for (const Charge& part : schedule.parts) {
    const auto* approximate = std::get_if<ApproximateDpEvent>(&part.event);
    if (approximate != nullptr) sum += static_cast<double>(part.count) * std::log1p(-approximate->delta);
  }
  return sum;
}

}  // namespace dpfa::accounting
