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
constexpr double kApart = 0.02;  // growth of the distance of used points with that from the centres
constexpr int kRounds = 40;      // of moving a cell to where its content contracts to

// Untilted masses on the points of the range.
struct Points {
  std::vector<double> mass;
  double infinite;
};

// The points that are used, as distances from range.first; powers of two apart, but for the last one.
std::vector<size_t> used_points(const GridRange& range) {
  std::vector<size_t> used;
  const size_t last = static_cast<size_t>(range.last - range.first);
  for (size_t i = 0; i < last;) {
    used.push_back(i);
    const double loss = range.shift + range.step * static_cast<double>(range.first + static_cast<int64_t>(i));
    const auto distance = [&](double place) { return std::max(0.0, std::abs(loss - place) - range.reach); };
    const double apart =
        std::min({kApart * distance(range.near), kApart * distance(range.also_near), range.widest});
    i += static_cast<size_t>(power_of_two_below(std::max(1.0, apart / range.step)));
  }
  used.push_back(last);
  return used;
}

// The cell (R_i, R_j] keeps P and Q: rise = P - R_i Q is what its upper point has to pay. Masses are rounded
// outwards, towards more under P and less under Q.
Points upper_points(const LossPair& pair, const GridRange& range) {
  const std::vector<size_t> used = used_points(range);
  std::vector<double> edges(used.size() + 2), references(used.size() + 1);
  for (size_t i = 0; i < used.size(); ++i)
    edges[i + 1] =
        range.shift + range.step * static_cast<double>(range.first + static_cast<int64_t>(used[i]));
  edges.front() = -kInfinity;
  edges.back() = kInfinity;
  references.front() = edges[1];
  std::copy(edges.begin() + 1, edges.end() - 1, references.begin() + 1);
  const std::vector<LossCell> cells = pair.cells(edges, references);

  Points points{std::vector<double>(used.back() + 1, 0.0), pair.infinite()};
  points.mass.front() = cells.front().p + cells.front().p_error;
  for (size_t i = 0; i < used.size(); ++i) {
    const LossCell& cell = cells[i + 1];
    const bool outermost = i + 1 == used.size();  // splits between the last point and infinity
    const double span = outermost ? 1 : -std::expm1(-range.step * static_cast<double>(used[i + 1] - used[i]));
    const double p = cell.p + cell.p_error, rise = cell.rise + cell.rise_error + cell.p_error;
    double high = range.round_up ? p : std::clamp(rise / span, 0.0, p);
    if (DPFA_PLANT("pld_losses_rounded_down")) high = 0;
    points.mass[used[i]] += p - high;
    (outermost ? points.infinite : points.mass[used[i + 1]]) += high;
  }
  if (DPFA_PLANT("pld_infinity_mass_dropped")) points.infinite = 0;
  return points;
}

// Cells around the points, contracted to them. Rounded inwards, towards less under P and more under Q.
Points lower_points(const LossPair& pair, const GridRange& range) {
  const std::vector<size_t> used = used_points(range);
  const auto place = [&](double point) {
    return range.shift + range.step * (static_cast<double>(range.first) + point);
  };
  std::vector<double> edges(used.size() + 2), references(used.size() + 1);
  edges.front() = place(-0.5);
  for (size_t i = 0; i < used.size(); ++i) {
    const double point = static_cast<double>(used[i]);
    references[i] = place(point);
    edges[i + 1] = place(i + 1 < used.size() ? (point + static_cast<double>(used[i + 1])) / 2 : point + 0.5);
  }
  edges.back() = kInfinity;
  references.back() = references[used.size() - 1];
  const std::vector<LossCell> cells = pair.cells(edges, references);

  Points points{std::vector<double>(used.back() + 1, 0.0), pair.infinite() * (1 - 1e-12)};
  for (size_t begin = 0; begin < used.size();) {
    size_t end = begin + 1;  // of the points at one distance
    const size_t apart = end < used.size() ? used[end] - used[begin] : 1;
    while (end < used.size() && used[end] - used[end - 1] == apart) ++end;
    std::vector<CurvePoint> curve(end - begin);
    for (size_t i = begin; i < end + (end == used.size() ? 1 : 0); ++i) {
      const LossCell& cell = cells[i];
      CurvePoint& point = curve[std::min(i, end - 1) - begin];
      const double mass = std::max(0.0, cell.p - cell.rise) + cell.p_error + cell.rise_error;
      point.mass += mass;
      // The outermost cell falls to the last point and loses its rise.
      if (i < used.size()) point.rise += cell.p - cell.p_error - mass;
    }
    const std::vector<double> mass = contract(std::move(curve), range.step * static_cast<double>(apart), 0);
    for (size_t i = begin; i < end; ++i) points.mass[used[i]] = mass[i - begin];
    begin = end;
  }
  return points;
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
    const double move = -std::log1p(-rise / p);
    centre += move;
    if (std::abs(move) < kUnit * width) break;
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

double power_of_two_below(double limit) { return std::ldexp(1.0, std::ilogb(limit)); }

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

DiscreteLoss discretise(const LossPair& pair, const GridRange& range, double tilt, Side side) {
  const Points points = side == Side::kUpper ? upper_points(pair, range) : lower_points(pair, range);
  DiscreteLoss result{{range.step, range.shift, range.first, points.mass}, 0, 0, points.infinite};
  // Weights relative to the largest one, which leaves the range of a double where the tilt is large.
  std::vector<double> exponents(points.mass.size(), -kInfinity);
  double largest = -kInfinity;
  for (size_t i = 0; i < points.mass.size(); ++i) {
    if (points.mass[i] == 0) continue;
    exponents[i] = std::log(points.mass[i]) + tilt * result.law.loss(i);
    largest = std::max(largest, exponents[i]);
  }
  double error = 0, sum = 0;
  for (size_t i = 0; i < points.mass.size(); ++i) {
    if (points.mass[i] == 0) continue;
    double& mass = result.law.mass[i];
    sum += mass = std::exp(exponents[i] - largest);
    // The argument of exp, rounded, and what contraction or the split rounded before.
    error += mass * (std::abs(tilt * result.law.loss(i)) + std::abs(exponents[i]) + std::abs(largest) + 40) *
             2 * kUnit;
  }
  if (!(sum > 0)) {
    result.law.mass.clear();
    return result;
  }
  for (double& mass : result.law.mass) mass /= sum;
  result.log_mass = largest + std::log(sum);
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
