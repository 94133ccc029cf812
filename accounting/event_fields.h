// The fields of every event in one place: names, ranges and relations, for writing, reading, checking and
// comparing. Internal to the module.
//
// fields(visitor, event) calls, field by field:
//   visitor.real(name, double&, Range), visitor.reals(name, vector&, Range), visitor.whole(name, int64_t&,
//   least) visitor.relation(Relation&, allowed), visitor.parts(vector<Charge>&)
// real_or and relation_or are for fields whose absence has a meaning.
#pragma once

#include <initializer_list>

#include "accounting/event.h"

namespace dpfa::accounting::internal {

enum class Range { kNotNegative, kPositive, kRate, kProbability };  // [0, inf), (0, inf), [0, 1], [0, 1)

template <typename V>
void fields(V& v, GaussianEvent& e) {
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.real_or("sensitivity", e.sensitivity, Range::kPositive);
  v.relation_or(e.relation);
}
template <typename V>
void fields(V& v, PoissonSampledGaussianEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.real_or("sensitivity", e.sensitivity, Range::kPositive);
  v.relation_or(e.relation);
}
template <typename V>
void fields(V& v, TruncatedPoissonGaussianEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.whole("max_batch", e.max_batch, 1);
  v.whole("dataset_size", e.dataset_size, 1);
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.relation(e.relation, {Relation::kAddOrRemoveOne});
}
template <typename V>
void fields(V& v, SampledWithoutReplacementGaussianEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.relation(e.relation, {Relation::kReplaceOne});
}
template <typename V>
void fields(V& v, SameSampleGaussianEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.reals("noise_multipliers", e.noise_multipliers, Range::kNotNegative);
  v.whole("releases", e.releases, 1);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, ShuffledEpochGaussianEvent& e) {
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.relation(e.relation, {Relation::kZeroOut});
}
template <typename V>
void fields(V& v, TreeAggregationEvent& e) {
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.whole("steps", e.steps, 0);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, BandedMatrixEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.real("noise_multiplier", e.noise_multiplier, Range::kNotNegative);
  v.whole("bands", e.bands, 1);
  v.whole("iterations", e.iterations, 0);
  v.relation(e.relation, {Relation::kZeroOut});
}
template <typename V>
void fields(V& v, LaplaceEvent& e) {
  v.real("scale", e.scale, Range::kNotNegative);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, DiscreteGaussianEvent& e) {
  v.real("sigma", e.sigma, Range::kNotNegative);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, PoissonSampledDiscreteGaussianEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.real("sigma", e.sigma, Range::kNotNegative);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.whole("rounded_dimension", e.rounded_dimension, 0);
  v.whole("dimension", e.dimension, 1);
  v.relation(e.relation, {Relation::kAddOrRemoveOne, Relation::kZeroOut});
}
template <typename V>
void fields(V& v, NoiseSharesEvent& e) {
  v.real("sample_rate", e.sample_rate, Range::kRate);
  v.real("share_sigma", e.share_sigma, Range::kPositive);
  v.whole("ranks", e.ranks, 1);
  v.whole("colluding_ranks", e.colluding_ranks, 0);
  v.real("sensitivity", e.sensitivity, Range::kPositive);
  v.whole("rounded_dimension", e.rounded_dimension, 0);
  v.whole("dimension", e.dimension, 1);
  v.relation(e.relation, {Relation::kAddOrRemoveOne, Relation::kZeroOut});
}
template <typename V>
void fields(V& v, DiscreteLaplaceEvent& e) {
  v.real("parameter", e.parameter, Range::kPositive);
  v.whole("sensitivity", e.sensitivity, 0);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, SkellamEvent& e) {
  v.real("variance", e.variance, Range::kNotNegative);
  v.real("l1_sensitivity", e.l1_sensitivity, Range::kPositive);
  v.real("l2_sensitivity", e.l2_sensitivity, Range::kPositive);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, RandomizedResponseEvent& e) {
  v.real("noise", e.noise, Range::kRate);
  v.whole("buckets", e.buckets, 2);
  v.relation(e.relation, {Relation::kReplaceOne, Relation::kZeroOut});
}
template <typename V>
void fields(V& v, ExponentialMechanismEvent& e) {
  v.real("epsilon", e.epsilon, Range::kNotNegative);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, ZeroConcentratedEvent& e) {
  v.real("xi", e.xi, Range::kNotNegative);
  v.real("rho", e.rho, Range::kNotNegative);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, ApproximateDpEvent& e) {
  v.real("epsilon", e.epsilon, Range::kNotNegative);
  v.real("delta", e.delta, Range::kProbability);
  v.relation(e.relation);
}
template <typename V>
void fields(V& v, ComposedEvent& e) {
  v.parts(e.parts);
}

}  // namespace dpfa::accounting::internal
