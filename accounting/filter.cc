#include "accounting/filter.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/hockey_stick.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRenyiSlack = 1e-10;  // more than the rounding of a divergence

double rounded_up(long double value) {
  const double nearest = static_cast<double>(value);
  return static_cast<long double>(nearest) < value ? std::nextafter(nearest, kInfinity) : nearest;
}

// The noise of a plain Gaussian, relative to its sensitivity; empty for other events.
std::optional<double> gaussian_noise(const Event& event) {
  const auto* gaussian = std::get_if<GaussianEvent>(&event);
  return gaussian != nullptr ? std::optional(gaussian->noise_multiplier) : std::nullopt;
}

// The least rho with RDP <= rho a at every order.
double concentrated_rho(const Event& event) {
  if (const auto noise = gaussian_noise(event)) {
    const long double s = *noise;
    return rounded_up(1 / (2 * s * s));
  }
  if (const auto* discrete = std::get_if<DiscreteGaussianEvent>(&event)) {
    const long double s = static_cast<long double>(discrete->sigma) / discrete->sensitivity;
    return rounded_up(1 / (2 * s * s) * (1 + 1e-18L));
  }
  if (const auto* concentrated = std::get_if<ZeroConcentratedEvent>(&event)) {
    if (concentrated->xi == 0) return concentrated->rho;
  }
  if (const auto* exponential = std::get_if<ExponentialMechanismEvent>(&event)) {
    return exponential->epsilon * exponential->epsilon / 8 * (1 + kRenyiSlack);  // Cesar and Rogers 2021
  }
  if (const auto* pure = std::get_if<ApproximateDpEvent>(&event)) {
    return pure->epsilon * pure->epsilon / 2 * (1 + kRenyiSlack);  // Bun and Steinke 2016, proposition 1.4
  }
  throw UnsupportedEvent("event " + to_json(event).dump() +
                         " has no bound that is linear in the order: use the Renyi filter");
}

void check_delta(double delta) {
  if (!(delta > 0 && delta < 1))
    throw ConfigError("delta " + std::to_string(delta) + ": expected a number between 0 and 1");
}

void check_order(double order) {
  if (!(order > 1) || std::isinf(order))
    throw ConfigError("order " + std::to_string(order) + ": expected a finite number above 1");
}

}  // namespace

double AdaptiveSum::cost(const Event& event) const {
  if (unit_ == Unit::kConcentrated) return concentrated_rho(event);
  const auto noise = gaussian_noise(event);
  if (unit_ == Unit::kGaussian) {
    if (!noise)
      throw UnsupportedEvent("event " + to_json(event).dump() +
                             " is no plain Gaussian: use the Renyi filter");
    return rounded_up(1 / (static_cast<long double>(*noise) * *noise));
  }
  // Exact in the closed form, so that a budget of n equal steps admits n of them.
  if (noise) return rounded_up(order_ / (2 * static_cast<long double>(*noise) * *noise));
  return rdp_of(event, order_) * (1 + kRenyiSlack);
}

double AdaptiveSum::with(const Event& event, int64_t count) const {
  const Charge charge{event, count};
  const Schedule schedule = simplify(std::span(&charge, 1));
  if (relation_ && *relation_ != schedule.relation) {
    throw UnsupportedEvent("events of the relations " + relation_name(*relation_) + " and " +
                           relation_name(schedule.relation) +
                           " do not compose: state all events for one relation");
  }
  if (log_no_failure(schedule) < 0) {
    throw UnsupportedEvent(
        "event " + to_json(event).dump() +
        " has a delta of its own, which this rule does not add up: set delta aside for it");
  }
  long double sum = spent_;
  for (const Charge& part : schedule.parts)
    sum += static_cast<long double>(cost(part.event)) * static_cast<long double>(part.count);
  return rounded_up(sum);
}

void AdaptiveSum::add(const Event& event, int64_t count) {
  spent_ = with(event, count);
  relation_ = relation(event);
}

Filter::Filter(AdaptiveSum::Unit unit, double order, double budget)
    : sum_(unit, order), unit_(unit), order_(order), budget_(budget) {
  if (!(budget >= 0) || std::isinf(budget))
    throw ConfigError("budget " + std::to_string(budget) + ": expected a finite number >= 0");
}

Filter Filter::renyi(double order, double budget) {
  check_order(order);
  return Filter(AdaptiveSum::Unit::kRenyi, order, budget);
}

Filter Filter::renyi_for(double epsilon, double delta, double order) {
  check_order(order);
  check_delta(delta);
  // Rounded down by more than the rounding of the three terms, which may cancel.
  const double offset = -std::log1p(-1 / order) + std::log(delta * order) / (order - 1);
  const double budget = epsilon + offset - 1e-15 * (epsilon + std::abs(offset) + 1);
  if (!(budget >= 0)) {
    throw ConfigError("at order " + std::to_string(order) + " no budget is left of epsilon " +
                      std::to_string(epsilon) + ": take a higher order, or raise epsilon or delta");
  }
  return renyi(order, budget);
}

Filter Filter::concentrated(double rho) { return Filter(AdaptiveSum::Unit::kConcentrated, 2, rho); }

Filter Filter::gaussian(double mu) {
  if (!(mu >= 0)) throw ConfigError("mu " + std::to_string(mu) + ": expected a number >= 0");
  return Filter(AdaptiveSum::Unit::kGaussian, 2, mu * mu);
}

bool Filter::admit(const Event& event, int64_t count) {
  if (!(sum_.with(event, count) <= budget_)) return false;
  sum_.add(event, count);
  return true;
}

double Filter::epsilon(double delta) const {
  check_delta(delta);
  if (budget_ == 0) return 0;
  if (unit_ == AdaptiveSum::Unit::kRenyi) return epsilon_from_rdp(budget_, order_, delta) * (1 + kRenyiSlack);
  if (unit_ == AdaptiveSum::Unit::kConcentrated) {
    return best_epsilon([this](double order) { return budget_ * order; }, delta).value * (1 + kRenyiSlack);
  }
  const double noise = 1 / std::sqrt(budget_) * (1 - 1e-15);
  return smallest_epsilon([noise](double e) { return gaussian_log_delta(noise, e); }, delta * (1 - 1e-12)) *
         (1 + 1e-12);
}

Odometer::Odometer(std::span<const double> orders, double delta)
    : orders_(orders.begin(), orders.end()), delta_(delta) {
  check_delta(delta);
  if (orders_.empty()) throw ConfigError("an odometer needs at least one order");
  for (double order : orders_) {
    check_order(order);
    sums_.emplace_back(AdaptiveSum::Unit::kRenyi, order);
  }
}

void Odometer::charge(const Event& event, int64_t count) {
  for (AdaptiveSum& sum : sums_) sum.add(event, count);
}

double Odometer::epsilon() const {
  const double log_share = std::log(static_cast<double>(orders_.size()) / delta_);
  double best = kInfinity;
  for (size_t i = 0; i < orders_.size(); ++i)
    best = std::min(best, sums_[i].spent() + log_share / (orders_[i] - 1));
  return best * (1 + kRenyiSlack);
}

}  // namespace dpfa::accounting
