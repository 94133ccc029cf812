#include "accounting/pld/composer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>

#include "accounting/pld/spectrum.h"

namespace dpfa::accounting {
namespace {

constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr int64_t kLastPower = 64, kPower = 16;
constexpr double kTail = 1e-8;  // of tilted mass outside all windows of one kind together

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
  if (!(target >= 2 * law.step)) return;
  change_mass(coarsen(law, std::llround(power_of_two_below(target) / law.step), tilt_, side_), copies);
  add_error(16 * kUnit, copies);
}

GridLaw Composer::power(GridLaw base, int64_t copies) {
  GridLaw rest = nothing_released(base.step);
  while (copies > 1 || rest.mass.size() > 1) {
    const bool is_last = copies <= kLastPower;
    const int64_t count = is_last ? 0 : kPower, rest_count = is_last ? copies : copies % kPower;
    const double left = is_last ? 1 : static_cast<double>(copies / kPower);
    Coarsened coarsened;
    LawProducts products =
        multiply(std::move(base), std::move(rest), count, rest_count, kTail / left, tilt_, side_, &coarsened);
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
  LawProducts products = multiply(std::move(a), std::move(b), 0, 1, kTail / 1000, tilt_, side_, &coarsened);
  change_mass(coarsened.base, 1);
  change_mass(coarsened.rest, 1);
  change_mass(products.rest.log_sum, 1);
  add_error(products.rest.error, 1);
  return std::move(products.rest.law);
}

ComposedLoss Composer::compose(const std::vector<DiscreteLoss>& losses, const std::vector<int64_t>& counts) {
  double log_finite = 0;
  bool empty = false;
  for (size_t i = 0; i < losses.size(); ++i) {
    const double count = static_cast<double>(counts[i]);
    log_finite += count * (losses[i].infinite < 1 ? std::log1p(-losses[i].infinite)
                                                  : -std::numeric_limits<double>::infinity());
    change_mass(losses[i].log_mass, count);
    empty = empty || losses[i].law.mass.empty();
  }
  // Only now is the mass that of the whole composition, and errors are relative to it.
  for (size_t i = 0; i < losses.size(); ++i) add_error(losses[i].error, static_cast<double>(counts[i]));
  const bool upper = side_ == Side::kUpper;
  const double infinite = -std::expm1(log_finite) * (upper ? 1 + 1e-12 : 1 - 1e-12);
  if (empty) return ComposedLoss({}, tilt_, 0, 0, infinite, side_);

  const auto wider = [](const std::pair<double, GridLaw>& a, const std::pair<double, GridLaw>& b) {
    return a.first > b.first;
  };
  std::vector<std::pair<double, GridLaw>> laws;
  for (size_t i = 0; i < losses.size(); ++i) {
    GridLaw law = power(losses[i].law, counts[i]);
    if (law.mass.empty()) return ComposedLoss({}, tilt_, 0, 0, infinite, side_);
    const double deviation = law.deviation();
    laws.emplace_back(deviation, std::move(law));
  }
  std::make_heap(laws.begin(), laws.end(), wider);
  const auto take_narrowest = [&] {
    std::pop_heap(laws.begin(), laws.end(), wider);
    GridLaw law = std::move(laws.back().second);
    laws.pop_back();
    return law;
  };
  while (laws.size() > 1) {
    GridLaw narrow = take_narrowest(), next = take_narrowest();
    GridLaw joined = join(std::move(narrow), std::move(next));
    if (joined.mass.empty()) return ComposedLoss({}, tilt_, 0, 0, infinite, side_);
    const double deviation = joined.deviation();
    laws.emplace_back(deviation, std::move(joined));
    std::push_heap(laws.begin(), laws.end(), wider);
  }
  return ComposedLoss(std::move(laws.front().second), tilt_, log_mass_, std::expm1(error_), infinite, side_);
}

}  // namespace dpfa::accounting
