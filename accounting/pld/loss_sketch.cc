#include "accounting/pld/loss_sketch.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dpfa::accounting {
namespace {

constexpr double kSmallest = 1e-11, kLargest = 1e5, kRatio = 1.12;

std::vector<double> edges_both_ways() {
  std::vector<double> positive, edges;
  for (double edge = kSmallest; edge < kLargest; edge *= kRatio) positive.push_back(edge);
  edges.push_back(-std::numeric_limits<double>::infinity());
  for (auto edge = positive.rbegin(); edge != positive.rend(); ++edge) edges.push_back(-*edge);
  edges.push_back(0);
  edges.insert(edges.end(), positive.begin(), positive.end());
  edges.push_back(std::numeric_limits<double>::infinity());
  return edges;
}

}  // namespace

LossSketch::LossSketch(const LossPair& pair) {
  const std::vector<double> edges = edges_both_ways(), references(edges.size() - 1, 0.0);
  const std::vector<LossCell> cells = pair.cells(edges, references);
  for (size_t i = 0; i < cells.size(); ++i) {
    if (!(cells[i].p > 0)) continue;
    const double loss = -std::log1p(-std::min(cells[i].rise / cells[i].p, 1.0));
    const double lower = std::max(edges[i], pair.min_loss()), upper = std::min(edges[i + 1], pair.max_loss());
    intervals_.push_back({lower, upper, std::max(lower, std::min(loss, upper)), cells[i].p});
  }
}

double LossSketch::log_moment(double tilt) const {
  double largest = 0;
  for (const Interval& interval : intervals_) largest = std::max(largest, tilt * interval.loss);
  if (largest < 600) {
    // Keeps what a small tilt or loss adds to 1.
    double sum = 0;
    for (const Interval& interval : intervals_) sum += interval.p * std::expm1(tilt * interval.loss);
    return std::log1p(sum);
  }
  double sum = 0, peak = 0;
  for (const Interval& interval : intervals_)
    peak = std::max(peak, std::log(interval.p) + tilt * interval.loss);
  for (const Interval& interval : intervals_)
    sum += std::exp(std::log(interval.p) + tilt * interval.loss - peak);
  return peak + std::log(sum);
}

LossSketch::Moments LossSketch::moments(double tilt) const {
  const double log_mass = log_moment(tilt);
  double total = 0, first = 0, second = 0;
  for (const Interval& interval : intervals_) {
    const double mass = std::exp(std::log(interval.p) + tilt * interval.loss - log_mass);
    total += mass;
    first += mass * interval.loss;
    second += mass * interval.loss * interval.loss;
  }
  const double mean = first / total;
  return {mean, std::sqrt(std::max(0.0, second / total - mean * mean))};
}

double LossSketch::top(double mass) const {
  double above = 0;
  for (size_t i = intervals_.size(); i > 0; --i) {
    above += intervals_[i - 1].p;
    if (above > mass) return intervals_[i - 1].upper;
  }
  return intervals_.empty() ? 0 : intervals_.front().upper;
}

LossSketch LossSketch::below(double limit) const {
  LossSketch result;
  for (const Interval& interval : intervals_) {
    if (interval.upper <= limit) result.intervals_.push_back(interval);
  }
  return result;
}

double LossSketch::bottom(double mass, double tilt) const {
  const double log_mass = log_moment(tilt);
  double below = 0;
  for (const Interval& interval : intervals_) {
    below += std::exp(std::log(interval.p) + tilt * interval.loss - log_mass);
    if (below > mass) return interval.lower;
  }
  return intervals_.empty() ? 0 : intervals_.back().lower;
}

double LossSketch::median() const {
  double below = 0;
  for (const Interval& interval : intervals_) {
    below += interval.p;
    if (below > 0.5) return interval.loss;
  }
  return largest();
}

}  // namespace dpfa::accounting
