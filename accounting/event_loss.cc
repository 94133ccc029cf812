#include "accounting/event_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>

#include "accounting/mechanism_rdp.h"

namespace dpfa::accounting {
namespace {

using MaybePair = std::optional<LossPair>;

constexpr double kFinestRatio = 1e-5, kCoarser = 1.5;
constexpr double kShareRounding = 1e-11;  // more than that of a share, which only has to be large enough
constexpr size_t kMostApart = 200, kMostNodes = 600, kMostNodesBelow = 6000;
constexpr double kLeastGroups = 16, kMostGroups = 400;
constexpr double kTransforms = 1.2e4;  // groups times the square root of releases: what transforms may cost
// Of the parts that are not drawn together: each is a law and a transform of its own, more take minutes.
constexpr size_t kMostOthers = 512;

MaybePair pair_of(const NoiseSharesEvent& e) {
  return LossPair::sampled_gaussian(e.sample_rate, dominating_noise_multiplier(e));
}

MaybePair pair_of(const PoissonSampledDiscreteGaussianEvent& e) {
  if (e.sigma < kSmallestShare) return {};
  return pair_of(NoiseSharesEvent{e.sample_rate, e.sigma, 1, 0, e.sensitivity, e.rounded_dimension,
                                  e.dimension, e.relation});
}

MaybePair pair_of(const TruncatedPoissonGaussianEvent& e) {
  const double full = truncation_probability(e), noise = e.noise_multiplier / e.sensitivity;
  return LossPair::mixture({{1 - full, LossPair::sampled_gaussian(e.sample_rate, noise)},
                            {full, LossPair::sampled_gaussian(e.sample_rate, noise / 2)}});
}

MaybePair pair_of(const RandomizedResponseEvent& e) {
  const double buckets = static_cast<double>(e.buckets), other = e.noise / buckets;
  const double truth = 1 - e.noise + other, rest = (buckets - 1) * other;
  if (e.relation == Relation::kReplaceOne)
    return LossPair::finite({truth, other, rest - other}, {other, truth, rest - other});
  return LossPair::finite({truth, rest}, {1 / buckets, 1 - 1 / buckets});
}

// Rounded up: the pair must dominate.
LossPair pure(double epsilon) { return LossPair::approximate_dp(epsilon * (1 + 1e-15), 0); }

MaybePair pair_of(const ApproximateDpEvent& e) { return LossPair::approximate_dp(e.epsilon, e.delta); }
MaybePair pair_of(const LaplaceEvent& e) { return pure(e.sensitivity / e.scale); }
MaybePair pair_of(const DiscreteLaplaceEvent& e) {
  return pure(e.parameter * static_cast<double>(e.sensitivity));
}
MaybePair pair_of(const ExponentialMechanismEvent& e) { return pure(e.epsilon); }

template <typename Other>
MaybePair pair_of(const Other&) {
  return {};
}

struct Sampled {
  double rate, inverse_noise;
  auto operator<=>(const Sampled&) const = default;
};

// Points (1 + ratio)^k around a value.
struct Around {
  double below, above;
};
Around around(double value, double ratio) {
  const double unit = std::log1p(ratio), place = std::log(value) / unit;
  const double below = std::min(value, std::exp(std::floor(place) * unit));
  return {below, std::max(value, std::exp((std::floor(place) + 1) * unit))};
}

// Probability of the upper one of two inverse noises, so that both have the total variation of `value`.
double share_above(double value, Around m) {
  const auto variation = [&](double to) {
    const double scale = std::sqrt(0.125);
    return m.below < 1 ? std::erf(to * scale) - std::erf(m.below * scale)
                       : std::erfc(m.below * scale) - std::erfc(to * scale);
  };
  const double all = variation(m.above);
  return all > 0 ? std::min(1.0, variation(value) / all * (1 + kShareRounding) + kShareRounding) : 1;
}

struct Part {
  Sampled event;
  int64_t count;
};

using Nodes = std::map<Sampled, double>;

void add_nodes(const Sampled& part, double count, double ratio, Side side, Nodes& nodes) {
  Around q = around(part.rate, ratio), m = around(part.inverse_noise, ratio);
  if (side == Side::kLower) {
    nodes[{q.below, m.below}] += count;
    return;
  }
  q.above = std::min(q.above, 1.0);
  const double high =
      q.above > q.below ? std::min(1.0, (part.rate - q.below) / (q.above - q.below) + kShareRounding) : 1;
  const double strong = share_above(part.inverse_noise, m);
  for (const auto& [rate, share] : {std::pair(q.below, 1 - high), std::pair(q.above, high)}) {
    nodes[{rate, m.below}] += count * share * (1 - strong);
    nodes[{rate, m.above}] += count * share * strong;
  }
}

// Ranges of parts with about equally many releases each.
std::vector<std::span<const Part>> split(std::span<const Part> parts, int64_t ranges) {
  int64_t releases = 0, count = 0;
  for (const Part& part : parts) releases += part.count;
  std::vector<std::span<const Part>> result;
  size_t begin = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    count += parts[i].count;
    if (count < releases / ranges && i + 1 < parts.size()) continue;
    result.push_back(parts.subspan(begin, i + 1 - begin));
    begin = i + 1;
    count = 0;
  }
  return result;
}

// Groups with nodes on the lattice of powers of 1 + ratio, or for ratio 0 at the parts themselves; none where
// there would be more than `most` nodes.
std::vector<PairGroup> groups_on_lattice(const std::vector<std::span<const Part>>& groups, double ratio,
                                         Side side, size_t most) {
  std::vector<PairGroup> result;
  size_t used = 0;
  for (const std::span<const Part> parts : groups) {
    Nodes nodes;
    PairGroup group{{}, 0};
    for (const auto& [event, count] : parts) {
      group.count += count;
      if (ratio == 0)
        nodes[event] += static_cast<double>(count);
      else
        add_nodes(event, static_cast<double>(count), ratio, side, nodes);
      if (used + nodes.size() > most) return {};
    }
    for (const auto& [node, weight] : nodes) {
      if (weight > 0)
        group.nodes.emplace_back(LossPair::sampled_gaussian(node.rate, 1 / node.inverse_noise), weight);
    }
    used += group.nodes.size();
    result.push_back(std::move(group));
  }
  return result;
}

// Strips of like noise, each cut into groups of like rates: ranges of `parts`, which are reordered.
std::vector<std::span<const Part>> cut(std::vector<Part>& parts) {
  const auto by_noise = [](const Part& a, const Part& b) {
    return a.event.inverse_noise < b.event.inverse_noise;
  };
  std::stable_sort(parts.begin(), parts.end(), by_noise);
  double releases = 0;
  for (const Part& part : parts) releases += static_cast<double>(part.count);
  const auto strips = static_cast<int64_t>(
      std::sqrt(std::clamp(kTransforms / std::sqrt(releases), kLeastGroups, kMostGroups)));
  std::vector<std::span<const Part>> groups;
  for (const std::span<const Part> strip : split(parts, strips)) {
    const auto begin = parts.begin() + (strip.data() - parts.data());
    std::stable_sort(begin, begin + static_cast<ptrdiff_t>(strip.size()),
                     [](const Part& a, const Part& b) { return a.event.rate < b.event.rate; });
    for (const std::span<const Part> group : split(strip, strips)) groups.push_back(group);
  }
  return groups;
}

// On the finest lattice, or none, that does not take too many nodes.
std::vector<PairGroup> groups_of(std::vector<Part> parts, Side side) {
  const std::vector<std::span<const Part>> groups = cut(parts);
  const size_t most = side == Side::kUpper ? kMostNodes : kMostNodesBelow;
  if (parts.size() <= most) return groups_on_lattice(groups, 0, side, most);
  for (double ratio = kFinestRatio;; ratio *= kCoarser) {
    std::vector<PairGroup> result = groups_on_lattice(groups, ratio, side, most);
    if (!result.empty()) return result;
  }
}

// `take` makes pairs or groups of the sampled Gaussians.
template <typename Take>
std::optional<LossPairs> loss_pairs(const Schedule& schedule, const Take& take) {
  LossPairs losses;
  std::map<Sampled, int64_t> sampled;
  double precision = 0;
  for (const Charge& part : schedule.parts) {
    const auto* poisson = std::get_if<PoissonSampledGaussianEvent>(&part.event);
    if (poisson != nullptr && poisson->relation != Relation::kReplaceOne) {
      if (part.count > 0 && poisson->sample_rate > 0)
        sampled[{poisson->sample_rate, poisson->sensitivity / poisson->noise_multiplier}] += part.count;
      continue;
    }
    if (const auto* gaussian = std::get_if<GaussianEvent>(&part.event)) {
      const double ratio = gaussian->sensitivity / gaussian->noise_multiplier;
      precision += static_cast<double>(part.count) * ratio * ratio;
      continue;
    }
    MaybePair pair = std::visit([](const auto& event) { return pair_of(event); }, part.event);
    if (!pair || losses.pairs.size() == kMostOthers) return {};
    losses.pairs.push_back({*std::move(pair), part.count});
  }
  std::vector<Part> parts;
  for (const auto& [event, count] : sampled) parts.push_back({event, count});
  take(std::move(parts), losses);
  if (precision > 0) losses.pairs.push_back({LossPair::sampled_gaussian(1, 1 / std::sqrt(precision)), 1});
  return losses;
}

}  // namespace

std::optional<LossPairs> loss_pairs_of(const Schedule& schedule, Side side) {
  return loss_pairs(schedule, [&](std::vector<Part> parts, LossPairs& losses) {
    if (parts.size() > kMostApart) {
      losses.groups = groups_of(std::move(parts), side);
      return;
    }
    for (const auto& [event, count] : parts)
      losses.pairs.push_back({LossPair::sampled_gaussian(event.rate, 1 / event.inverse_noise), count});
  });
}

std::optional<LossPairs> loss_pairs_on_lattice(const Schedule& schedule, Side side, double ratio) {
  return loss_pairs(schedule, [&](std::vector<Part> parts, LossPairs& losses) {
    losses.groups = groups_on_lattice(cut(parts), ratio, side, std::numeric_limits<size_t>::max());
  });
}

}  // namespace dpfa::accounting
