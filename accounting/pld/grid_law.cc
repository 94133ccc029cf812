#include "accounting/pld/grid_law.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/pld/convex_hull.h"
#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr int kRounds = 8;  // of moving a cell to where its content contracts to

// Untilted masses on the points of the range.
struct Points {
  std::vector<double> mass;
  double infinite;
};

// The cell (R_i, R_(i+1)] keeps P and Q: rise = P - R_i Q is what its upper point has to pay. Masses are
// rounded outwards, towards more under P and less under Q.
Points upper_points(const LossPair& pair, const GridRange& range) {
  const size_t size = static_cast<size_t>(range.last - range.first) + 1;
  std::vector<double> edges(size + 2), references(size + 1);
  for (size_t i = 0; i < size; ++i)
    edges[i + 1] = range.shift + range.step * static_cast<double>(range.first + static_cast<int64_t>(i));
  edges.front() = -kInfinity;
  edges.back() = kInfinity;
  references.front() = edges[1];
  std::copy(edges.begin() + 1, edges.end() - 1, references.begin() + 1);
  const std::vector<LossCell> cells = pair.cells(edges, references);

  Points points{std::vector<double>(size, 0.0), pair.infinite()};
  points.mass.front() = cells.front().p + cells.front().p_error;
  const double span = -std::expm1(-range.step);
  for (size_t i = 0; i < size; ++i) {
    const LossCell& cell = cells[i + 1];
    const bool outermost = i + 1 == size;  // splits between the last point and infinity
    const double p = cell.p + cell.p_error, rise = cell.rise + cell.rise_error + cell.p_error;
    double high = std::clamp(rise / (outermost ? 1 : span), 0.0, p);
    if (DPFA_PLANT("pld_losses_rounded_down")) high = 0;
    points.mass[i] += p - high;
    (outermost ? points.infinite : points.mass[i + 1]) += high;
  }
  if (DPFA_PLANT("pld_infinity_mass_dropped")) points.infinite = 0;
  return points;
}

// Cells around the points, contracted to them. Rounded inwards, towards less under P and more under Q.
Points lower_points(const LossPair& pair, const GridRange& range) {
  const size_t size = static_cast<size_t>(range.last - range.first) + 1;
  std::vector<double> edges(size + 2), references(size + 1);
  for (size_t i = 0; i <= size; ++i)
    edges[i] = range.shift + range.step * (static_cast<double>(range.first + static_cast<int64_t>(i)) - 0.5);
  edges.back() = kInfinity;
  for (size_t i = 0; i < size; ++i) references[i] = edges[i] + range.step / 2;
  references.back() = references[size - 1];
  const std::vector<LossCell> cells = pair.cells(edges, references);

  std::vector<CurvePoint> curve(size);
  for (size_t i = 0; i <= size; ++i) {
    const LossCell& cell = cells[i];
    CurvePoint& point = curve[std::min(i, size - 1)];
    const double mass = std::max(0.0, cell.p - cell.rise) + cell.p_error + cell.rise_error;
    point.mass += mass;
    // The outermost cell falls to the last point and loses its rise.
    if (i < size) point.rise += cell.p - cell.p_error - mass;
  }
  return {contract(curve, range.step, 0), pair.infinite() * (1 - 1e-12)};
}

double sum_of(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum;
}

void trim(GridLaw& law) {
  const auto positive = [](double mass) { return mass > 0; };
  const auto begin = std::find_if(law.mass.begin(), law.mass.end(), positive);
  const auto end = std::find_if(law.mass.rbegin(), law.mass.rend(), positive).base();
  if (begin >= end) return;
  law.first += begin - law.mass.begin();
  law.mass = std::vector<double>(begin, end);
}

int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

GridLaw coarse_upper(const GridLaw& law, int64_t factor, double tilt) {
  const double width = law.step * static_cast<double>(factor);
  std::vector<double> high(static_cast<size_t>(factor)), low(high.size());
  for (size_t j = 0; j < high.size(); ++j) {
    const double over = law.step * static_cast<double>(j);
    const double share = std::expm1(-over) / std::expm1(-width);
    high[j] = share * std::exp(tilt * (width - over));
    low[j] = (std::expm1(over - width) * std::exp(-over) / std::expm1(-width)) * std::exp(-tilt * over);
    if (DPFA_PLANT("pld_losses_rounded_down")) high[j] = 0, low[j] = std::exp(-tilt * over);
  }
  const int64_t first = floor_divide(law.first, factor);
  const int64_t last = floor_divide(law.first + static_cast<int64_t>(law.mass.size()) - 1, factor) + 1;
  GridLaw coarse{width, law.shift, first, std::vector<double>(static_cast<size_t>(last - first) + 1, 0.0)};
  for (size_t i = 0; i < law.mass.size(); ++i) {
    const int64_t offset = law.first + static_cast<int64_t>(i) - first * factor;
    const size_t point = static_cast<size_t>(offset / factor), j = static_cast<size_t>(offset % factor);
    coarse.mass[point] += law.mass[i] * low[j];
    if (j > 0) coarse.mass[point + 1] += law.mass[i] * high[j];
  }
  return coarse;
}

// Where the losses within half a width around the largest mass contract to: log of their P / Q, from
// law.shift.
double concentration(const GridLaw& law, double width, double tilt) {
  const auto largest = std::max_element(law.mass.begin(), law.mass.end());
  double centre = law.loss(static_cast<size_t>(largest - law.mass.begin())) - law.shift;
  for (int round = 0; round < kRounds; ++round) {
    const double from = std::ceil((centre - width / 2) / law.step) - static_cast<double>(law.first);
    double p = 0, rise = 0;
    for (size_t i = from > 0 ? static_cast<size_t>(from) : 0; i < law.mass.size(); ++i) {
      const double over = law.loss(i) - law.shift - centre;
      if (over > width / 2) break;
      const double mass = law.mass[i] * std::exp(-tilt * over);
      p += mass;
      rise += mass * -std::expm1(-over);
    }
    centre -= std::log1p(-rise / p);
  }
  return centre;
}

// The coarse points are placed so that one of them is where most of the law may be concentrated.
GridLaw coarse_lower(const GridLaw& law, int64_t factor, double tilt) {
  const double width = law.step * static_cast<double>(factor);
  const double centre = concentration(law, width, tilt);
  struct Residue {
    int64_t cell;
    double mass, rise;
  };
  std::vector<Residue> residues;
  for (int64_t j = 0; j < factor; ++j) {
    const double place = law.step * static_cast<double>(j) - centre;
    const double cell = std::floor(place / width + 0.5), over = place - cell * width;
    residues.push_back({static_cast<int64_t>(cell), std::exp(-(1 + tilt) * over),
                        -std::expm1(-over) * std::exp(-tilt * over)});
  }
  const auto cell_of = [&](int64_t index) {
    return floor_divide(index, factor) +
           residues[static_cast<size_t>(index - floor_divide(index, factor) * factor)].cell;
  };
  const int64_t last_index = law.first + static_cast<int64_t>(law.mass.size()) - 1;
  GridLaw coarse{width, law.shift + centre, cell_of(law.first), {}};
  std::vector<CurvePoint> curve(static_cast<size_t>(cell_of(last_index) - coarse.first) + 1);
  for (size_t i = 0; i < law.mass.size(); ++i) {
    const int64_t index = law.first + static_cast<int64_t>(i);
    const Residue& residue = residues[static_cast<size_t>(index - floor_divide(index, factor) * factor)];
    CurvePoint& point = curve[static_cast<size_t>(cell_of(index) - coarse.first)];
    point.mass += law.mass[i] * residue.mass;
    point.rise += law.mass[i] * residue.rise;
  }
  coarse.mass = contract(std::move(curve), width, tilt);
  return coarse;
}

}  // namespace

double GridLaw::mean() const {
  double sum = 0, total = 0;
  for (size_t i = 0; i < mass.size(); ++i) sum += mass[i] * static_cast<double>(i), total += mass[i];
  return shift + step * (static_cast<double>(first) + sum / total);
}

double GridLaw::deviation() const {
  const double centre = mean();
  double sum = 0, total = 0;
  for (size_t i = 0; i < mass.size(); ++i) {
    const double distance = loss(i) - centre;
    sum += mass[i] * distance * distance;
    total += mass[i];
  }
  return std::sqrt(sum / total);
}

double power_of_two_below(double limit) { return std::ldexp(1.0, std::ilogb(limit)); }

DiscreteLoss discretise(const LossPair& pair, const GridRange& range, double tilt, double expected_log_mass,
                        Side side) {
  const Points points = side == Side::kUpper ? upper_points(pair, range) : lower_points(pair, range);
  DiscreteLoss result{{range.step, range.shift, range.first, points.mass}, 0, 0, points.infinite};
  double error = 0;
  for (size_t i = 0; i < points.mass.size(); ++i) {
    const double exponent = tilt * result.law.loss(i) - expected_log_mass;
    // A mass that underflows where its factor overflows would be lost.
    const auto tilted = [exponent](double mass) {
      if (mass == 0) return 0.0;
      return exponent < 600 ? mass * std::exp(exponent) : std::exp(std::log(mass) + exponent);
    };
    double& mass = result.law.mass[i];
    mass = tilted(mass);
    // The argument of exp, rounded, and what contraction or the split rounded before.
    error += mass * (std::abs(exponent) + (exponent < 600 ? 0 : 800) + 16) * 2 * kUnit;
  }
  const double sum = sum_of(result.law.mass);
  if (!(sum > 0) || std::isinf(sum)) {
    result.law.mass.clear();
    return result;
  }
  for (double& mass : result.law.mass) mass /= sum;
  result.log_mass = expected_log_mass + std::log(sum);
  result.error = error / sum;
  trim(result.law);
  return result;
}

double coarsen(GridLaw& law, int64_t factor, double tilt, Side side) {
  DPFA_CHECK(factor >= 1 && (factor & (factor - 1)) == 0, "factor ", factor);
  if (factor == 1 || law.mass.empty()) return 0;
  GridLaw coarse = side == Side::kUpper ? coarse_upper(law, factor, tilt) : coarse_lower(law, factor, tilt);
  const double sum = sum_of(coarse.mass);
  if (!(sum > 0)) {
    law.mass.clear();
    return 0;
  }
  for (double& mass : coarse.mass) mass /= sum;
  trim(coarse);
  law = std::move(coarse);
  return std::log(sum);
}

}  // namespace dpfa::accounting
