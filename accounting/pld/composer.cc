#include "accounting/pld/composer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/pld/spectrum.h"

namespace dpfa::accounting {
namespace {

constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr int64_t kLastPower = 64, kPower = 16;
constexpr double kTail = 1e-8;  // of tilted mass outside all windows of one kind together

constexpr size_t kMostPoints = size_t{1} << 18, kMostPointsOnGivenGrid = size_t{1} << 23;

GridLaw nothing_released(double step) { return {step, 0, 0, {1}}; }

}  // namespace

// The exact composition of what is left to compose has changed its mass by this factor. An error that was
// relative to a larger mass is a larger part of a smaller one; where the mass grows it is left as it is.
void Composer::change_mass(double log_factor, double copies) {
  const double change = log_factor * copies;
  log_mass_ += change;
  if (change < 0) error_ *= std::exp(-change);
}

void Composer::coarsen_to(GridLaw& law, double deviation, double copies) {
  const double target = resolution_ * deviation;
  if (resolution_ == 0 || !(target >= 2 * law.step)) return;
  change_mass(coarsen(law, std::llround(power_of_two_below(target) / law.step), tilt_, side_), copies);
  add_error(16 * kUnit, copies);
}

size_t Composer::most_points() const { return resolution_ == 0 ? kMostPointsOnGivenGrid : kMostPoints; }

GridLaw Composer::power(GridLaw base, int64_t copies) {
  GridLaw rest = nothing_released(base.step);
  while (copies > 1 || rest.mass.size() > 1) {
    const bool is_last = copies <= kLastPower;
    const int64_t count = is_last ? 0 : kPower, rest_count = is_last ? copies : copies % kPower;
    const double left = is_last ? 1 : static_cast<double>(copies / kPower);
    Coarsened coarsened;
    LawProducts products = multiply(std::move(base), std::move(rest), count, rest_count, kTail / left, tilt_,
                                    side_, most_points(), &coarsened);
    change_mass(coarsened.base, static_cast<double>(copies));
    change_mass(coarsened.rest, 1);
    change_mass(products.rest.log_sum, 1);
    add_error(products.rest.error, 1);
    rest = std::move(products.rest.law);
    if (is_last) return rest;
    change_mass(products.power.log_sum, left);
    add_error(products.power.error, left);
    base = std::move(products.power.law);
    const double deviation = base.deviation();
    coarsen_to(base, deviation, left);
    coarsen_to(rest, deviation, 1);
    copies /= kPower;
    if (base.mass.empty() || rest.mass.empty()) return {};
  }
  return base;
}

GridLaw Composer::join(GridLaw a, GridLaw b) {
  const double deviation = std::hypot(a.deviation(), b.deviation());
  coarsen_to(a, deviation, 1);
  coarsen_to(b, deviation, 1);
  GridLaw& fine = a.step < b.step ? a : b;
  const double step = std::max(a.step, b.step);
  change_mass(coarsen(fine, std::llround(step / fine.step), tilt_, side_), 1);
  add_error(16 * kUnit, 1);
  if (a.mass.empty() || b.mass.empty()) return {};
  Coarsened coarsened;
  LawProducts products =
      multiply(std::move(a), std::move(b), 0, 1, kTail / 1000, tilt_, side_, most_points(), &coarsened);
  change_mass(coarsened.base, 1);
  change_mass(coarsened.rest, 1);
  change_mass(products.rest.log_sum, 1);
  add_error(products.rest.error, 1);
  return std::move(products.rest.law);
}

void Composer::take_infinite(double infinite, double copies) {
  log_finite_ += copies * (infinite < 1 ? std::log1p(-infinite) : -std::numeric_limits<double>::infinity());
}

void Composer::add(DiscreteLoss loss, int64_t count) {
  const double copies = static_cast<double>(count);
  take_infinite(loss.infinite, copies);
  is_empty_ = is_empty_ || loss.law.mass.empty();
  if (is_empty_) return;
  // The law is normalised, and errors are relative to that: only the whole mass changes.
  log_mass_ += copies * loss.log_mass;
  add_error(loss.error, copies);
  apart_.push_back(power(std::move(loss.law), count));
}

void Composer::add_group(const std::vector<DiscreteLoss>& nodes, const std::vector<double>& weights,
                         int64_t count) {
  for (size_t c = 0; c < nodes.size(); ++c) {
    // log(1 - x) is concave, so a mixture is finite at least as often as this says.
    take_infinite(nodes[c].infinite, weights[c]);
    is_empty_ = is_empty_ || nodes[c].law.mass.empty();
  }
  if (is_empty_) return;
  groups_.push_back(mean_of(nodes, weights, count));
  log_mass_ += static_cast<double>(count) * groups_.back().log_mass;
  add_error(groups_.back().error, static_cast<double>(count));
}

// An empty law where one is empty.
GridLaw Composer::join_all() {
  const auto wider = [](const std::pair<double, GridLaw>& a, const std::pair<double, GridLaw>& b) {
    return a.first > b.first;
  };
  std::vector<std::pair<double, GridLaw>> laws;
  const auto add = [&](GridLaw law) {
    const double deviation = law.deviation();
    laws.emplace_back(deviation, std::move(law));
    std::push_heap(laws.begin(), laws.end(), wider);
  };
  const auto take_narrowest = [&] {
    std::pop_heap(laws.begin(), laws.end(), wider);
    GridLaw law = std::move(laws.back().second);
    laws.pop_back();
    return law;
  };
  for (GridLaw& law : apart_) {
    if (law.mass.empty()) return {};
    add(std::move(law));
  }
  while (laws.size() > 1) {
    GridLaw narrow = take_narrowest(), next = take_narrowest();
    GridLaw joined = join(std::move(narrow), std::move(next));
    if (joined.mass.empty()) return {};
    add(std::move(joined));
  }
  return std::move(laws.front().second);
}

ComposedLoss Composer::finish() {
  const bool upper = side_ == Side::kUpper;
  const double infinite = -std::expm1(log_finite_) * (upper ? 1 + 1e-12 : 1 - 1e-12);
  const auto nothing_known = [&] { return ComposedLoss({}, tilt_, 0, 0, infinite, side_); };
  if (is_empty_) return nothing_known();
  if (!groups_.empty()) {
    LawProduct product = multiply_all(groups_, kTail / 1000);
    change_mass(product.log_sum, 1);
    add_error(product.error, 1);
    coarsen_to(product.law, product.law.deviation(), 1);
    apart_.push_back(std::move(product.law));
  }
  GridLaw all = join_all();
  if (all.mass.empty()) return nothing_known();
  return ComposedLoss(std::move(all), tilt_, log_mass_, std::expm1(error_), infinite, side_);
}

}  // namespace dpfa::accounting
