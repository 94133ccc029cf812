#include "accounting/pld/composer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/pld/spectrum.h"

namespace dpfa::accounting {
namespace {

constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr int64_t kLastPower = 64, kPower = 16;
constexpr size_t kMostApart = 16;        // laws that go through power() each by itself
constexpr double kBlockDeviation = 500;  // of a block, in steps: about 16 times that is its window
constexpr double kTail = 1e-8;           // of tilted mass outside all windows of one kind together

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

GridLaw Composer::finish(Block& block) {
  LawProduct product = multiply_all(block.laws, kTail / 1000);
  change_mass(product.log_sum, 1);
  add_error(product.error, 1);
  coarsen_to(product.law, product.law.deviation(), 1);
  block = {};
  return std::move(product.law);
}

// The narrowest two first, so that few transforms are long. An empty law where one is empty.
GridLaw Composer::join_all(std::vector<GridLaw> apart) {
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
  for (GridLaw& law : apart) {
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

ComposedLoss Composer::compose(const std::function<DiscreteLoss(size_t)>& loss,
                               const std::vector<int64_t>& counts) {
  double log_finite = 0;
  std::vector<GridLaw> apart;
  std::map<double, Block> blocks;  // by step
  for (size_t i = 0; i < counts.size(); ++i) {
    const double count = static_cast<double>(counts[i]);
    DiscreteLoss one = loss(i);
    log_finite +=
        count * (one.infinite < 1 ? std::log1p(-one.infinite) : -std::numeric_limits<double>::infinity());
    // The laws are normalised, and errors relative to that: only the whole mass changes.
    log_mass_ += count * one.log_mass;
    add_error(one.error, count);
    if (one.law.mass.empty()) {
      apart.push_back({});
    } else if (counts.size() <= kMostApart || counts[i] > kLastPower) {
      apart.push_back(power(std::move(one.law), counts[i]));
    } else {
      Block& block = blocks[one.law.step];
      const double more = count * std::pow(one.law.deviation(), 2);
      if (!block.laws.empty() && block.variance + more > std::pow(kBlockDeviation * one.law.step, 2))
        apart.push_back(finish(block));
      block.laws.push_back({std::move(one.law), counts[i]});
      block.variance += more;
    }
  }
  for (auto& [step, block] : blocks)
    if (!block.laws.empty()) apart.push_back(finish(block));
  const bool upper = side_ == Side::kUpper;
  const double infinite = -std::expm1(log_finite) * (upper ? 1 + 1e-12 : 1 - 1e-12);
  GridLaw all = join_all(std::move(apart));
  if (all.mass.empty()) return ComposedLoss({}, tilt_, 0, 0, infinite, side_);
  return ComposedLoss(std::move(all), tilt_, log_mass_, std::expm1(error_), infinite, side_);
}

}  // namespace dpfa::accounting
