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
#include "src/base/error.h"
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
constexpr size_t kMostSketches = 64;
// Of groups: the window of all of them, deviations in it, and points of one node.
constexpr double kMostPointsTogether = 1 << 19, kWindow = 20, kMostPointsOfNode = 1 << 18;
constexpr int64_t kMostGivenPoints = 1 << 22;
constexpr double kDenseReach = 8;  // deviations around the centres in which every grid point is used
constexpr double kWidest = 0.03;   // distance of used points times 1 + tilt
constexpr double kLost = 1e-9;     // tilted mass below the grids of all releases
constexpr double kLittleTilt = 10;

// All releases in one direction.
class OneWay {
 public:
  OneWay(const LossPairs& losses, bool swapped) {
    for (const PairCount& one : losses.pairs) {
      DPFA_CHECK(one.count >= 0);
      if (one.count == 0) continue;
      add(swapped ? one.pair.swapped() : one.pair, static_cast<double>(one.count));
      counts_.push_back(one.count);
    }
    for (const PairGroup& group : losses.groups) {
      groups_.push_back({pairs_.size(), pairs_.size() + group.nodes.size(), group.count});
      for (const auto& [pair, weight] : group.nodes) add(swapped ? pair.swapped() : pair, weight);
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
  // The same upper bound with every pair on one given grid, which no power leaves.
  ComposedLoss on_grid(double delta, double step, bool round_up) const {
    const double log_delta = std::log(std::max(delta, 1e-300));
    const std::vector<LossSketch> sketches = truncated(log_delta);
    const double tilt = best_tilt([&](double t) { return (log_moment(sketches, t) - log_delta) / t; });
    DPFA_CHECK(groups_.empty());
    Composer composer(tilt, 0, Side::kUpper);
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const Span span = span_of(sketches[i], i, tilt);
      GridRange range{step, 0, static_cast<int64_t>(std::floor(span.bottom / step)),
                      static_cast<int64_t>(std::ceil(span.top / step))};
      range.round_up = round_up;
      if (range.last - range.first > kMostGivenPoints)
        throw Unsupported("a grid of step " + std::to_string(step) + " has too many points for these losses");
      range.last = std::max(range.last, range.first + 1);
      composer.add(discretise(pairs_[i], range, tilt, Side::kUpper), counts_[i]);
    }
    return composer.finish();
  }
  // log delta(epsilon), from a composition tilted to be precise there.
  double log_delta(double epsilon, Side side) const {
    std::vector<LossSketch> sketches = sketches_;
    double tilt = 1, expected = 0;
    // What may be truncated depends on delta, and Chernoff's bound of delta on what is truncated.
    for (int pass = 0; pass < 12; ++pass) {
      const auto chernoff = [&](double t) { return log_moment(sketches, t) - t * epsilon; };
      tilt = best_tilt(chernoff);
      const double found = std::clamp(chernoff(tilt), -690.0, -1.0);
      if (found > expected - 0.5) break;
      expected = found;
      sketches = truncated(expected);
    }
    const double found = compose(sketches, tilt, epsilon, side).log_delta(epsilon);
    // Just below the largest loss of all a sketch is too rough for a tilt; there little of one is needed.
    // Where losses have no largest one this is the composition without a tilt, the better one of few
    // releases.
    const double little = kLittleTilt / (largest_loss_ - epsilon);
    if (!(little < tilt) || !groups_.empty()) return found;
    const double other = compose(sketches_, little, epsilon, side).log_delta(epsilon);
    return side == Side::kUpper ? std::min(found, other) : std::max(found, other);
  }

 private:
  void add(LossPair pair, double weight) {
    pairs_.push_back(std::move(pair));
    weights_.push_back(weight);
    sketches_.emplace_back(pairs_.back());
    releases_ += weight;
    largest_loss_ += weight * pairs_.back().max_loss();
    if (pairs_.back().infinite() > 0) largest_loss_ = kInfinity;
  }

  // Without the losses that all releases together exceed with a small part of delta. Upper bounds count them
  // as infinite; tilted, they would drown what decides at delta.
  std::vector<LossSketch> truncated(double log_delta) const {
    std::vector<LossSketch> result;
    for (const LossSketch& sketch : sketches_)
      result.push_back(sketch.below(sketch.top(kTruncated * std::exp(log_delta) / releases_)));
    return result;
  }

  // Of the whole composition; where there are many pairs, from some of them, which is enough for a tilt.
  double log_moment(const std::vector<LossSketch>& sketches, double tilt) const {
    const size_t stride = 1 + sketches.size() / kMostSketches;
    double sum = 0, seen = 0;
    for (size_t i = 0; i < sketches.size(); i += stride) {
      sum += weights_[i] * sketches[i].log_moment(tilt);
      seen += weights_[i];
    }
    return sum * releases_ / seen;
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

  struct Span {
    double bottom, top;
    double length() const { return std::max(top - bottom, 0.0); }
    double finest_step() const { return 1e-12 * std::max({std::abs(top), std::abs(bottom), 1e-18}); }
  };
  Span span_of(const LossSketch& sketch, size_t i, double tilt) const {
    return {std::max({sketch.bottom(kLost / releases_, tilt), pairs_[i].min_loss(), -kLargestLoss}),
            std::min({sketch.largest(), pairs_[i].max_loss(), kLargestLoss})};
  }

  GridRange range_of(const Span& span, double step, double shift, size_t i,
                     const LossSketch::Moments& moments, double tilt) const {
    const int64_t first = static_cast<int64_t>(std::floor((span.bottom - shift) / step));
    GridRange range{step, shift, first,
                    std::max(first + 1, static_cast<int64_t>(std::ceil((span.top - shift) / step)))};
    range.near = moments.mean;
    range.also_near = sketches_[i].median();
    range.reach = kDenseReach * moments.deviation;
    range.widest = kWidest / (1 + tilt);
    return range;
  }

  // The loss, within a step of `median`, to which the losses around it contract: log of their P / Q.
  static double concentration(const LossPair& pair, double median, double step) {
    double loss = median;
    for (int round = 0; round < 40; ++round) {
      const LossCell cell = pair.cells(std::array{loss - step / 2, loss + step / 2}, std::array{0.0}).front();
      const double next = -std::log1p(-cell.rise / cell.p);
      if (!(cell.p > 0) || !(std::abs(next - median) <= step)) return median;
      if (next == loss) break;
      loss = next;
    }
    return loss;
  }

  ComposedLoss compose(const std::vector<LossSketch>& sketches, double tilt, double epsilon,
                       Side side) const {
    if (DPFA_PLANT("pld_untilted_without_allowance")) tilt = 0;
    double variance = 0;
    std::vector<LossSketch::Moments> moments;
    for (size_t i = 0; i < sketches.size(); ++i) {
      moments.push_back(sketches[i].moments(tilt));
      variance += weights_[i] * moments[i].deviation * moments[i].deviation;
    }
    // A grid adds step^2 / 6 to the variance of every copy of a smooth law, hence (1 + tilt) step^2 / 12 to
    // the epsilon of the tilt.
    const double deviation = std::sqrt(variance);
    const double excess = kGridExcess * std::max(epsilon, 0.1 * deviation);
    const double coarse = std::sqrt(12 * excess / (1 + tilt));
    const double resolution = std::clamp(coarse / deviation, kFinest, kCoarsest);
    Composer composer(tilt, resolution, side);
    for (size_t i = 0; i < counts_.size(); ++i) {
      const Span span = span_of(sketches[i], i, tilt);
      const double wanted = std::max(resolution * moments[i].deviation, 2 * span.length() / kMostPoints);
      const double step = power_of_two_below(std::max(wanted, span.finest_step()));
      const double shift = concentration(pairs_[i], sketches_[i].median(), step);
      composer.add(discretise(pairs_[i], range_of(span, step, shift, i, moments[i], tilt), tilt, side),
                   counts_[i]);
    }
    add_groups(sketches, moments,
               std::max(coarse / std::sqrt(releases_), kWindow * deviation / kMostPointsTogether), tilt, side,
               composer);
    return composer.finish();
  }

  // All groups on one grid of about `step`.
  void add_groups(const std::vector<LossSketch>& sketches, const std::vector<LossSketch::Moments>& moments,
                  double step, double tilt, Side side, Composer& composer) const {
    std::vector<Span> spans;
    for (size_t i = counts_.size(); i < pairs_.size(); ++i) {
      const Span& span = spans.emplace_back(span_of(sketches[i], i, tilt));
      step = std::max({step, 2 * span.length() / kMostPointsOfNode, span.finest_step()});
    }
    step = power_of_two_below(step);
    for (const Group& group : groups_) {
      // The same points for all nodes: what differs is then small.
      Span span{kInfinity, -kInfinity};
      LossSketch::Moments widest{0, 0};
      for (size_t i = group.begin; i < group.end; ++i) {
        const Span& one = spans[i - counts_.size()];
        span = {std::min(span.bottom, one.bottom), std::max(span.top, one.top)};
        if (moments[i].deviation > widest.deviation) widest = moments[i];
      }
      const GridRange range = range_of(span, step, 0, group.begin, widest, tilt);
      std::vector<DiscreteLoss> nodes;
      for (size_t i = group.begin; i < group.end; ++i)
        nodes.push_back(discretise(pairs_[i], range, tilt, side));
      composer.add_group(nodes,
                         {weights_.begin() + static_cast<ptrdiff_t>(group.begin),
                          weights_.begin() + static_cast<ptrdiff_t>(group.end)},
                         group.count);
    }
  }

  struct Group {
    size_t begin, end;  // of its nodes
    int64_t count;
  };

  std::vector<LossPair> pairs_;  // one by one, then the nodes of the groups
  std::vector<double> weights_;
  std::vector<LossSketch> sketches_;
  std::vector<int64_t> counts_;  // of the first pairs
  std::vector<Group> groups_;
  double releases_ = 0, largest_loss_ = 0;
};

// Calls `visit` with each direction that can differ.
void for_each_direction(const LossPairs& losses, Ways ways, const std::function<void(const OneWay&)>& visit) {
  if (ways != Ways::kSwapped) visit(OneWay(losses, false));
  if (ways == Ways::kGiven) return;
  const bool symmetric =
      losses.groups.empty() && std::all_of(losses.pairs.begin(), losses.pairs.end(),
                                           [](const PairCount& one) { return one.pair.is_symmetric(); });
  if ((ways == Ways::kBoth && symmetric) || DPFA_PLANT("pld_one_direction")) return;
  visit(OneWay(losses, true));
}

LossPairs without_groups(std::span<const PairCount> pairs) { return {{pairs.begin(), pairs.end()}, {}}; }

double log_delta_of_nothing(double epsilon) {
  return epsilon < 0 ? std::log(-std::expm1(epsilon)) : -kInfinity;
}

double log_delta(const LossPairs& pairs, double epsilon, Side side, Ways ways) {
  double worst = log_delta_of_nothing(epsilon);
  for_each_direction(pairs, ways, [&](const OneWay& way) {
    if (way.empty() || epsilon >= way.largest_loss() * (1 + 1e-12)) return;
    worst = std::max(worst, way.log_delta(epsilon, side));
  });
  return worst;
}

// The smallest delta(epsilon) + e^epsilon fpr in one direction. Any places bound it from above. From below:
// delta falls and e^epsilon grows, so between two places both are at least what they are at the nearer end.
double least_power(const std::vector<ComposedLoss>& losses, double fpr, Side side) {
  const bool upper = side == Side::kUpper;
  const auto best_of = [&](double a, double b) { return upper ? std::min(a, b) : std::max(a, b); };
  const auto least_around = [&](double centre) {
    std::vector<double> places;
    for (int i = -kPlaces; i <= kPlaces; ++i)
      places.push_back(centre + std::copysign(1e-5 * std::expm1(std::abs(i) * kGrowth), i));
    double least = upper ? 1 : std::exp(places.back()) * fpr, place = centre, delta = 0;
    for (size_t i = places.size(); i-- > 0;) {
      double here = losses.front().log_delta(places[i]);
      for (const ComposedLoss& loss : losses) here = best_of(here, loss.log_delta(places[i]));
      // A lower bound at a larger epsilon holds here too.
      delta = upper ? std::exp(here) : std::max(delta, std::exp(here));
      const double price = upper ? std::exp(places[i]) : i > 0 ? std::exp(places[i - 1]) : 0;
      if (const double value = delta + price * fpr; value < least) least = value, place = places[i];
    }
    return std::pair(least, place);
  };
  const auto [rough, place] = least_around(0);
  return std::min(1.0, best_of(rough, least_around(place).first));
}

double power(const LossPairs& pairs, double fpr, Side side, Ways ways) {
  DPFA_CHECK(fpr >= 0 && fpr <= 1, "false-positive rate ", fpr);
  double best = fpr;
  for_each_direction(pairs, ways, [&](const OneWay& way) {
    if (way.empty() || fpr == 1) return;
    std::vector<ComposedLoss> losses;
    for (const double delta : {0.3, std::clamp(fpr, 1e-300, 0.1)})
      losses.push_back(way.near_delta(delta, side));
    best = std::max(best, least_power(losses, fpr, side));
  });
  return best;
}

double epsilon_upper(const LossPairs& pairs, double delta, Ways ways) {
  double epsilon = 0;
  for_each_direction(pairs, ways, [&](const OneWay& way) {
    if (way.empty()) return;
    // No loss is larger, whatever delta.
    double found = std::max(0.0, way.largest_loss() * (1 + 1e-12));
    if (delta > 0) found = std::min(found, way.near_delta(delta, Side::kUpper).epsilon(delta));
    epsilon = std::max(epsilon, found);
  });
  return epsilon;
}

double epsilon_lower(const LossPairs& pairs, double delta, Ways ways) {
  double epsilon = 0;
  for_each_direction(pairs, ways, [&](const OneWay& way) {
    if (way.empty()) return;
    epsilon = std::max(epsilon, way.near_delta(delta, Side::kLower).epsilon(delta));
  });
  return epsilon;
}

}  // namespace

double loss_epsilon_upper(std::span<const PairCount> pairs, double delta, Ways ways) {
  return epsilon_upper(without_groups(pairs), delta, ways);
}
double loss_epsilon_upper(const LossPairs& pairs, double delta) {
  return epsilon_upper(pairs, delta, Ways::kBoth);
}

double loss_epsilon_lower(std::span<const PairCount> pairs, double delta, Ways ways) {
  return epsilon_lower(without_groups(pairs), delta, ways);
}
double loss_epsilon_lower(const LossPairs& pairs, double delta) {
  return epsilon_lower(pairs, delta, Ways::kBoth);
}

double loss_log_delta_upper(std::span<const PairCount> pairs, double epsilon, Ways ways) {
  return log_delta(without_groups(pairs), epsilon, Side::kUpper, ways);
}
double loss_log_delta_upper(const LossPairs& pairs, double epsilon) {
  return log_delta(pairs, epsilon, Side::kUpper, Ways::kBoth);
}

double loss_log_delta_lower(std::span<const PairCount> pairs, double epsilon, Ways ways) {
  return log_delta(without_groups(pairs), epsilon, Side::kLower, ways);
}

double loss_power_upper(std::span<const PairCount> pairs, double fpr, Ways ways) {
  return power(without_groups(pairs), fpr, Side::kUpper, ways);
}
double loss_power_upper(const LossPairs& pairs, double fpr) {
  return power(pairs, fpr, Side::kUpper, Ways::kBoth);
}

double loss_power_lower(std::span<const PairCount> pairs, double fpr, Ways ways) {
  return power(without_groups(pairs), fpr, Side::kLower, ways);
}

double loss_epsilon_on_grid(std::span<const PairCount> pairs, double delta, double step, GridRule rule,
                            Ways ways) {
  double epsilon = 0;
  for_each_direction(without_groups(pairs), ways, [&](const OneWay& way) {
    if (way.empty()) return;
    epsilon = std::max(epsilon, way.on_grid(delta, step, rule == GridRule::kRoundUp).epsilon(delta));
  });
  return epsilon;
}

}  // namespace dpfa::accounting
