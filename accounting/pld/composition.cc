#include "accounting/pld/composition.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "accounting/pld/composed_loss.h"
#include "accounting/pld/composer.h"
#include "accounting/pld/loss_sketch.h"
#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLargestLoss = 600;
constexpr double kMostPoints = 1 << 16;
constexpr double kTruncated = 3e-4;                  // of the expected delta, over all releases
constexpr double kGridExcess = 6e-5;                 // what one grid may add to epsilon, relative
constexpr double kFinest = 0.005, kCoarsest = 0.05;  // step / deviation
constexpr int kPlaces = 2000;  // of epsilon on each side of the best one, ever farther apart by e^kGrowth
constexpr double kGrowth = 0.01;
constexpr double kLost = 1e-9;  // tilted mass below the grids of all releases

// All releases in one direction.
class OneWay {
 public:
  OneWay(std::span<const PairCount> pairs, bool swapped) {
    for (const PairCount& one : pairs) {
      DPFA_CHECK(one.count >= 0);
      if (one.count == 0) continue;
      pairs_.push_back(swapped ? one.pair.swapped() : one.pair);
      counts_.push_back(one.count);
      sketches_.emplace_back(pairs_.back());
      releases_ += static_cast<double>(one.count);
      largest_loss_ += static_cast<double>(one.count) * pairs_.back().max_loss();
      if (pairs_.back().infinite() > 0) largest_loss_ = kInfinity;
    }
  }

  bool empty() const { return pairs_.empty(); }
  double largest_loss() const { return largest_loss_; }

  // Composition tilted to where delta(epsilon) is about `delta`.
  ComposedLoss near_delta(double delta, Side side) const {
    const double log_delta = std::log(std::max(delta, 1e-300));
    const std::vector<LossSketch> sketches = truncated(log_delta);
    // Chernoff's bound of epsilon (Canonne, Kamath and Steinke 2020, proposition 12).
    const auto epsilon = [&](double tilt) {
      return (log_moment(sketches, tilt) - log_delta + tilt * std::log(tilt) -
              (1 + tilt) * std::log1p(tilt)) /
             tilt;
    };
    const double tilt = best_tilt(epsilon);
    return compose(sketches, tilt, epsilon(tilt), side);
  }
  // Composition tilted to be precise at `epsilon`.
  ComposedLoss near_epsilon(double epsilon, Side side) const {
    std::vector<LossSketch> sketches = sketches_;
    double tilt = 1;
    for (int pass = 0; pass < 2; ++pass) {
      const auto log_delta = [&](double t) { return log_moment(sketches, t) - t * epsilon; };
      tilt = best_tilt(log_delta);
      sketches = truncated(std::clamp(log_delta(tilt), -690.0, -1.0));
    }
    return compose(sketches, tilt, epsilon, side);
  }

 private:
  // Without the losses that all releases together exceed with a small part of delta. Upper bounds count them
  // as infinite; tilted, they would drown what decides at delta.
  std::vector<LossSketch> truncated(double log_delta) const {
    std::vector<LossSketch> result;
    for (const LossSketch& sketch : sketches_)
      result.push_back(sketch.below(sketch.top(kTruncated * std::exp(log_delta) / releases_)));
    return result;
  }

  double log_moment(const std::vector<LossSketch>& sketches, double tilt) const {
    double sum = 0;
    for (size_t i = 0; i < sketches.size(); ++i)
      sum += static_cast<double>(counts_[i]) * sketches[i].log_moment(tilt);
    return sum;
  }

  static double best_tilt(const std::function<double(double)>& bound) {
    double best = 1, best_value = kInfinity;
    for (double tilt = 1e-3; tilt < 1e6; tilt *= 2) {
      if (const double value = bound(tilt); value < best_value) best = tilt, best_value = value;
    }
    for (double ratio = std::sqrt(2.0); ratio > 1.02; ratio = std::sqrt(ratio)) {
      for (double tilt : {best / ratio, best * ratio}) {
        if (const double value = bound(tilt); value < best_value) best = tilt, best_value = value;
      }
    }
    return best;
  }

  GridRange range_of(const LossSketch& sketch, size_t i, double tilt, double deviation,
                     double resolution) const {
    const double top = std::min({sketch.largest(), pairs_[i].max_loss(), kLargestLoss});
    const double bottom =
        std::max({sketch.bottom(kLost / releases_, tilt), pairs_[i].min_loss(), -kLargestLoss});
    const double length = std::max(top - bottom, 0.0), scale = std::max(std::abs(top), std::abs(bottom));
    const double wanted = std::max(resolution * deviation, 2 * length / kMostPoints);
    const double step = power_of_two_below(std::max({wanted, 1e-12 * scale, 1e-30}));
    const double shift = concentration(pairs_[i], sketches_[i].median(), step);
    const int64_t first = static_cast<int64_t>(std::floor((bottom - shift) / step));
    return {step, shift, first, std::max(first + 1, static_cast<int64_t>(std::ceil((top - shift) / step)))};
  }

  // The loss, within a step of `median`, to which the losses around it contract: log of their P / Q.
  static double concentration(const LossPair& pair, double median, double step) {
    double loss = median;
    for (int round = 0; round < 8; ++round) {
      const LossCell cell = pair.cells(std::array{loss - step / 2, loss + step / 2}, std::array{0.0}).front();
      const double next = -std::log1p(-cell.rise / cell.p);
      if (!(cell.p > 0) || !(std::abs(next - median) <= step)) return median;
      loss = next;
    }
    return loss;
  }

  ComposedLoss compose(const std::vector<LossSketch>& sketches, double tilt, double epsilon,
                       Side side) const {
    if (DPFA_PLANT("pld_untilted_without_allowance")) tilt = 0;
    double variance = 0;
    std::vector<double> deviations;
    for (size_t i = 0; i < sketches.size(); ++i) {
      deviations.push_back(sketches[i].deviation(tilt));
      variance += static_cast<double>(counts_[i]) * deviations[i] * deviations[i];
    }
    // A grid adds step^2 / 6 to the variance of every copy of a smooth law, hence (1 + tilt) step^2 / 12 to
    // the epsilon of the tilt.
    const double deviation = std::sqrt(variance);
    const double excess = kGridExcess * std::max(epsilon, 0.1 * deviation);
    const double resolution = std::clamp(std::sqrt(12 * excess / (1 + tilt)) / deviation, kFinest, kCoarsest);
    std::vector<DiscreteLoss> losses;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const GridRange range = range_of(sketches[i], i, tilt, deviations[i], resolution);
      losses.push_back(discretise(pairs_[i], range, tilt, sketches[i].log_moment(tilt), side));
    }
    return Composer(tilt, resolution, side).compose(losses, counts_);
  }

  std::vector<LossPair> pairs_;
  std::vector<int64_t> counts_;
  std::vector<LossSketch> sketches_;
  double releases_ = 0, largest_loss_ = 0;
};

// Calls `visit` with each direction that can differ.
void for_each_direction(std::span<const PairCount> pairs, const std::function<void(const OneWay&)>& visit) {
  visit(OneWay(pairs, false));
  const bool symmetric =
      std::all_of(pairs.begin(), pairs.end(), [](const PairCount& one) { return one.pair.is_symmetric(); });
  if (symmetric || DPFA_PLANT("pld_one_direction")) return;
  visit(OneWay(pairs, true));
}

double log_delta_of_nothing(double epsilon) {
  return epsilon < 0 ? std::log(-std::expm1(epsilon)) : -kInfinity;
}

double log_delta(std::span<const PairCount> pairs, double epsilon, Side side) {
  double worst = log_delta_of_nothing(epsilon);
  for_each_direction(pairs, [&](const OneWay& way) {
    if (way.empty() || epsilon >= way.largest_loss() * (1 + 1e-12)) return;
    worst = std::max(worst, way.near_epsilon(epsilon, side).log_delta(epsilon));
  });
  return worst;
}

// min over epsilon of delta(epsilon) + e^epsilon fpr in one direction. Any places bound it from above. From
// below: delta falls and e^epsilon grows, so between two places both are at least what they are at one end.
double least_power(const std::vector<ComposedLoss>& losses, double fpr, Side side) {
  const bool upper = side == Side::kUpper;
  const auto delta = [&](double epsilon) {
    double best = losses.front().log_delta(epsilon);
    for (const ComposedLoss& loss : losses) {
      const double other = loss.log_delta(epsilon);
      best = upper ? std::min(best, other) : std::max(best, other);
    }
    return std::exp(best);
  };
  const auto least_at = [&](double centre) {
    double least = upper ? 1 : kInfinity, place = centre, before = 0;  // e^before_place is 0
    for (double from : {-1.0, 1.0}) {
      for (int i = 0; i <= kPlaces; ++i) {
        const int outwards = from < 0 ? kPlaces - i : i;
        const double epsilon = centre + from * 1e-5 * std::expm1(outwards * kGrowth);
        const double value = delta(epsilon) + (upper ? std::exp(epsilon) : before) * fpr;
        if (value < least) least = value, place = epsilon;
        before = std::exp(epsilon);
      }
    }
    if (!upper) least = std::min(least, before * fpr);
    return std::pair(least, place);
  };
  const double place = least_at(0).second;
  return std::min(1.0, upper ? std::min(least_at(place).first, least_at(0).first)
                             : std::max(least_at(place).first, least_at(0).first));
}

double power(std::span<const PairCount> pairs, double fpr, Side side) {
  DPFA_CHECK(fpr >= 0 && fpr <= 1, "false-positive rate ", fpr);
  double best = fpr;
  for_each_direction(pairs, [&](const OneWay& way) {
    if (way.empty() || fpr == 1) return;
    std::vector<ComposedLoss> losses;
    for (const double delta : {0.3, std::clamp(fpr, 1e-300, 0.1)})
      losses.push_back(way.near_delta(delta, side));
    best = std::max(best, least_power(losses, fpr, side));
  });
  return best;
}

}  // namespace

double loss_epsilon_upper(std::span<const PairCount> pairs, double delta) {
  double epsilon = 0;
  for_each_direction(pairs, [&](const OneWay& way) {
    if (way.empty()) return;
    // No loss is larger, whatever delta.
    double found = std::max(0.0, way.largest_loss() * (1 + 1e-12));
    if (delta > 0) {
      found = std::min(found, way.near_delta(delta, Side::kUpper).epsilon(delta));
    }
    epsilon = std::max(epsilon, found);
  });
  return epsilon;
}

double loss_epsilon_lower(std::span<const PairCount> pairs, double delta) {
  double epsilon = 0;
  for_each_direction(pairs, [&](const OneWay& way) {
    if (way.empty()) return;
    epsilon = std::max(epsilon, way.near_delta(delta, Side::kLower).epsilon(delta));
  });
  return epsilon;
}

double loss_log_delta_upper(std::span<const PairCount> pairs, double epsilon) {
  return log_delta(pairs, epsilon, Side::kUpper);
}

double loss_log_delta_lower(std::span<const PairCount> pairs, double epsilon) {
  return log_delta(pairs, epsilon, Side::kLower);
}

double loss_power_upper(std::span<const PairCount> pairs, double fpr) {
  return power(pairs, fpr, Side::kUpper);
}

double loss_power_lower(std::span<const PairCount> pairs, double fpr) {
  return power(pairs, fpr, Side::kLower);
}

}  // namespace dpfa::accounting
