#include "accounting/event_loss.h"

#include <cmath>

#include "accounting/mechanism_rdp.h"

namespace dpfa::accounting {
namespace {

using MaybePair = std::optional<LossPair>;

MaybePair pair_of(const PoissonSampledGaussianEvent& e) {
  if (e.relation == Relation::kReplaceOne) return {};
  return LossPair::sampled_gaussian(e.sample_rate, e.noise_multiplier / e.sensitivity);
}

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

// Every distinct part is a law and a transform of its own: more of them take minutes.
constexpr size_t kMostParts = 512;

}  // namespace

std::optional<std::vector<PairCount>> loss_pairs_of(const Schedule& schedule) {
  if (schedule.parts.size() > kMostParts) return {};
  std::vector<PairCount> pairs;
  double precision = 0;
  for (const Charge& part : schedule.parts) {
    if (const auto* gaussian = std::get_if<GaussianEvent>(&part.event)) {
      const double ratio = gaussian->sensitivity / gaussian->noise_multiplier;
      precision += static_cast<double>(part.count) * ratio * ratio;
      continue;
    }
    MaybePair pair = std::visit([](const auto& event) { return pair_of(event); }, part.event);
    if (!pair) return {};
    pairs.push_back({*std::move(pair), part.count});
  }
  if (precision > 0) pairs.push_back({LossPair::sampled_gaussian(1, 1 / std::sqrt(precision)), 1});
  return pairs;
}

}  // namespace dpfa::accounting
