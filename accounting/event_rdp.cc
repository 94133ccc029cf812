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

RdpCurve curve_of(const GaussianEvent& e) {
  return [noise = e.noise_multiplier](double order) { return sampled_gaussian_rdp(1, noise, order); };
}

RdpCurve curve_of(const PoissonSampledGaussianEvent& e) {
  if (e.relation == Relation::kReplaceOne) {
    return
        [e](double order) { return replaced_sampled_gaussian_rdp(e.sample_rate, e.noise_multiplier, order); };
  }
  return SampledGaussianRdp(e.sample_rate, e.noise_multiplier);
}

RdpCurve curve_of(const TruncatedPoissonGaussianEvent& e) {
  const double full = truncation_probability(e), noise = e.noise_multiplier / e.sensitivity;
  SampledGaussianRdp near(e.sample_rate, noise), far(e.sample_rate, noise / 2);
  return [full, near, far](double order) mutable {
    const double kept = near(order);
    if (full == 0) return kept;
    const double replaced = far(order);
    if (std::isinf(order)) return replaced;
    if (order == 1) return kept + full * (replaced - kept);
    // log of the mixture of moments, relative to the smaller one.
    const double excess = (order - 1) * (replaced - kept);
    const double growth = excess > 700 ? excess + std::log(full) : std::log1p(full * std::expm1(excess));
    return kept + std::min(growth, excess) / (order - 1);
  };
}

RdpCurve curve_of(const SampledWithoutReplacementGaussianEvent& e) {
  return WithoutReplacementRdp(e.sample_rate, e.noise_multiplier / e.sensitivity);
}

RdpCurve curve_of(const LaplaceEvent& e) {
  return [b = e.scale / e.sensitivity](double order) { return laplace_rdp(b, order); };
}

RdpCurve curve_of(const DiscreteGaussianEvent& e) {
  return curve_of(GaussianEvent{e.sigma / e.sensitivity, 1, e.relation});  // 2004.00010, proposition 5
}

RdpCurve curve_of(const PoissonSampledDiscreteGaussianEvent& e) {
  return [e](double order) { return sampled_discrete_gaussian_rdp(e, order); };
}

RdpCurve curve_of(const NoiseSharesEvent& e) {
  return [e](double order) { return noise_shares_rdp(e, order); };
}

RdpCurve curve_of(const DiscreteLaplaceEvent& e) {
  return [e](double order) { return discrete_laplace_rdp(e.parameter, e.sensitivity, order); };
}

RdpCurve curve_of(const SkellamEvent& e) {
  return [e](double order) {
    if (std::isinf(order)) return kInfinity;
    return between_whole_orders(order, [&e](double whole) {
      return skellam_rdp_bound(e.variance, e.l1_sensitivity, e.l2_sensitivity, whole);
    });
  };
}

RdpCurve curve_of(const RandomizedResponseEvent& e) {
  return [e](double order) {
    return randomized_response_rdp(e.noise, static_cast<double>(e.buckets), order,
                                   e.relation == Relation::kZeroOut);
  };
}

RdpCurve curve_of(const ExponentialMechanismEvent& e) {
  return [e](double order) { return exponential_mechanism_rdp(e.epsilon, order); };
}

RdpCurve curve_of(const ZeroConcentratedEvent& e) {
  return [e](double order) { return e.rho == 0 ? e.xi : e.xi + e.rho * order; };
}

// What is left of it without its delta, which the schedule carries.
RdpCurve curve_of(const ApproximateDpEvent& e) {
  return [e](double order) { return pure_dp_rdp(e.epsilon, order); };
}

template <typename Other>
RdpCurve curve_of(const Other&) {
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
    if (event != nullptr) {
      sampled.push_back({event, part.count});
    } else {
      terms_.push_back({std::visit([](const auto& one) { return curve_of(one); }, part.event),
                        static_cast<double>(part.count)});
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
    terms_.push_back(
        {curve_of(PoissonSampledGaussianEvent{key.first, key.second, 1, schedule.relation}), count});
}

double ScheduleRdp::operator()(double order) const {
  double sum = 0;
  for (const auto& [curve, count] : terms_) {
    const double one = curve(order);
    // A negative or NaN divergence is a failed computation; in a sum it would hide others.
    sum += (one >= 0 ? one : kInfinity) * (DPFA_PLANT("count_ignored") ? 1.0 : count);
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
