#include "accounting/pld/convex_hull.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dpfa::accounting {
namespace {

// Surplus of the lowest cell, relative to its mass, that is given up rather than paid by a shift of the cell.
constexpr double kNegligible = 1e-13;

class Hull {
 public:
  Hull(std::vector<double>& mass, double step, double tilt) : mass_(mass), step_(step), tilt_(tilt) {}

  // A negative mass is a concave kink: the hull replaces it by the chord between its neighbours.
  void run() {
    for (size_t i = 0; i < mass_.size(); ++i) {
      kept_.push_back(i);
      straighten();
    }
    while (!kept_.empty() && mass_[kept_.back()] < 0) lower_top();
  }

 private:
  double distance(size_t from, size_t to) const {
    return step_ * (static_cast<double>(to) - static_cast<double>(from));
  }
  double rescaled(double mass, size_t from, size_t to) const {
    return mass * std::exp((1 + tilt_) * distance(from, to));
  }

  void straighten() {
    while (kept_.size() >= 2 && mass_[kept_[kept_.size() - 2]] < 0) {
      const size_t right = kept_.back(), middle = kept_[kept_.size() - 2];
      kept_.pop_back();
      kept_.pop_back();
      if (kept_.empty()) {
        // Left of the first point there is no chord; moving the negative mass up only lowers the curve.
        mass_[right] += rescaled(mass_[middle], middle, right);
      } else {
        // Keeps the masses under P and Q: weights by the likelihood ratios of the three points.
        const size_t left = kept_.back();
        const double down = -std::expm1(-distance(left, middle)), up = std::expm1(distance(middle, right));
        mass_[left] += rescaled(mass_[middle], middle, left) * up / (up + down);
        mass_[right] += rescaled(mass_[middle], middle, right) * down / (up + down);
      }
      mass_[middle] = 0;
      kept_.push_back(right);
    }
  }

  // A negative last mass makes the curve negative left of it, where 0 is a better lower curve: the curve
  // becomes 0 from the last point where it is not negative, with the chord from the point before.
  void lower_top() {
    double total = 0,
           curve = 0;  // of Q above and of the curve, at kept_[j], times e^((1 + tilt) R), e^(tilt R)
    size_t j = kept_.size() - 1;
    size_t end = kept_.size();
    for (;; --j) {
      total += mass_[kept_[j]];
      if (end == kept_.size() && j + 1 < kept_.size() && curve >= 0) end = j;
      if (j == 0) break;
      const double fall = distance(kept_[j - 1], kept_[j]);
      curve = (curve - total * std::expm1(-fall)) * std::exp(-tilt_ * fall);
      total *= std::exp(-(1 + tilt_) * fall);
      if (end < kept_.size()) break;
    }
    if (end == kept_.size() || end == 0) {
      std::fill(mass_.begin(), mass_.end(), 0.0);
      kept_.clear();
      return;
    }
    const size_t before = kept_[end - 1], last = kept_[end];
    total += mass_[before];
    for (size_t k = end; k < kept_.size(); ++k) mass_[kept_[k]] = 0;
    kept_.resize(end + 1);
    const double chord = std::max(0.0, curve) / std::expm1(distance(before, last));
    mass_[before] = total - chord;
    mass_[last] = rescaled(chord, before, last);
    straighten();
  }

  std::vector<double>& mass_;
  double step_, tilt_;
  std::vector<size_t> kept_;
};

}  // namespace

std::vector<double> contract(std::vector<CurvePoint> cells, double step, double tilt) {
  const double up = std::expm1(step), down = -std::expm1(-step), tilted = std::exp(tilt * step);
  std::vector<double> mass(cells.size(), 0.0);
  const auto surplus = [&](size_t i) { return std::max(0.0, cells[i].rise); };
  const auto deficit = [&](size_t i) { return std::max(0.0, -cells[i].rise); };
  // The last cell is open upwards and the first one downwards. Where the ratio of such a cell lies on the
  // wrong side of its point, or its mass cannot pay what its neighbour takes, it joins the neighbour.
  size_t first = 0, last = cells.size() - 1;
  for (; last > 0; --last) {
    CurvePoint &to = cells[last - 1], from = cells[last];
    if (from.rise >= 0 && from.mass + surplus(last) / down >= deficit(last - 1) * tilted / down) break;
    to.mass += from.mass / tilted * std::exp(-step);
    to.rise += (from.rise + from.mass * down) / tilted;
  }
  for (; first < last; ++first) {
    CurvePoint &to = cells[first + 1], from = cells[first];
    const bool pays = from.mass + deficit(first) / up >= surplus(first + 1) / (tilted * up);
    if (from.rise <= kNegligible * from.mass && pays) break;
    to.mass += from.mass * tilted * std::exp(step);
    to.rise += (from.rise - from.mass * up) * tilted;
  }
  // No neighbour pays for what is left of the first surplus: it is given up.
  cells[first].rise = std::min(cells[first].rise, first == last ? cells[first].rise : 0.0);
  if (first == last) {
    // One point is left. It holds what lies above it without its rise; what lies below it falls by one point.
    if (cells[last].rise >= 0) {
      mass[last] = cells[last].mass;
    } else if (last > 0) {
      mass[last - 1] = cells[last].mass / tilted * std::exp(-step);
    }
    return mass;
  }
  // Slope of the chord over each cell from the smaller tangents at its ends; masses are their differences.
  for (size_t i = first; i <= last; ++i) {
    mass[i] += cells[i].mass + deficit(i) / up + surplus(i) / down;
    if (i > first) mass[i - 1] -= surplus(i) / (tilted * up);
    if (i < last) mass[i + 1] -= deficit(i) * tilted / down;
  }
  Hull(mass, step, tilt).run();
  return mass;
}

}  // namespace dpfa::accounting
