#include "accounting/event_loss.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "accounting/mechanism_rdp.h"

namespace dpfa::accounting {
namespace {

using MaybePair = std::optional<LossPair>;

constexpr double kFinestRatio = 1e-5, kCoarser = 1.3;
// Of the parts that are not drawn together: each is a law and a transform of its own, more take minutes.
constexpr size_t kMostOthers = 512;

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

using RateAndNoise = std::pair<double, double>;

// The next power of 1 + ratio on that side; the value itself for ratio 0.
double on_lattice(double value, double ratio, bool up) {
  if (ratio == 0) return value;
  const double place = std::log(value) / std::log1p(ratio);
  const double power = std::exp((up ? std::ceil(place) : std::floor(place)) * std::log1p(ratio));
  return up ? std::max(value, power) : std::min(value, power);
}

std::map<RateAndNoise, int64_t> drawn_together(const std::map<RateAndNoise, int64_t>& events, Side side,
                                               size_t most) {
  const bool upper = side == Side::kUpper;
  std::map<RateAndNoise, int64_t> lattice = events;
  for (double ratio = kFinestRatio; lattice.size() > most; ratio *= kCoarser) {
    lattice.clear();
    for (const auto& [event, count] : events) {
      const double rate = std::min(1.0, on_lattice(event.first, ratio, upper));
      lattice[{rate, on_lattice(event.second, ratio, !upper)}] += count;
      if (lattice.size() > most) break;
    }
  }
  return lattice;
}

}  // namespace

std::optional<std::vector<PairCount>> loss_pairs_of(const Schedule& schedule, Side side, size_t most) {
  std::vector<PairCount> pairs;
  std::map<RateAndNoise, int64_t> sampled;
  double precision = 0;
  for (const Charge& part : schedule.parts) {
    const auto* poisson = std::get_if<PoissonSampledGaussianEvent>(&part.event);
    if (poisson != nullptr && poisson->relation != Relation::kReplaceOne) {
      sampled[{poisson->sample_rate, poisson->noise_multiplier / poisson->sensitivity}] += part.count;
      continue;
    }
    if (const auto* gaussian = std::get_if<GaussianEvent>(&part.event)) {
      const double ratio = gaussian->sensitivity / gaussian->noise_multiplier;
      precision += static_cast<double>(part.count) * ratio * ratio;
      continue;
    }
    MaybePair pair = std::visit([](const auto& event) { return pair_of(event); }, part.event);
    if (!pair || pairs.size() == kMostOthers) return {};
    pairs.push_back({*std::move(pair), part.count});
  }
  for (const auto& [event, count] : drawn_together(sampled, side, most))
    pairs.push_back({LossPair::sampled_gaussian(event.first, event.second), count});
  if (precision > 0) pairs.push_back({LossPair::sampled_gaussian(1, 1 / std::sqrt(precision)), 1});
  return pairs;
}

}  // namespace dpfa::accounting
