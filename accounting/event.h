// A mechanism as data: what was released, said in numbers that any accountant can judge.
//
// Every event names its sensitivity and its neighbouring relation. Noise is a standard deviation, scale or
// parameter in the same unit as `sensitivity`; only their ratio matters. Meanings never change and events are
// never removed; what an accountant cannot bound throws UnsupportedEvent, it is never approximated downwards.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "accounting/gaussian_event.h"
#include "accounting/noise_shares.h"
#include "src/base/error.h"

namespace dpfa::accounting {

// An event without a sound bound, or a composition of different relations.
class UnsupportedEvent : public Unsupported {
 public:
  using Unsupported::Unsupported;
};

struct LaplaceEvent {
  double scale = 0;
  double sensitivity = 1;  // L1
  Relation relation = Relation::kAddOrRemoveOne;
};

// P(x) ~ exp(-x^2 / (2 sigma^2)) on whole numbers, independent in each coordinate.
struct DiscreteGaussianEvent {
  double sigma = 0;
  double sensitivity = 1;  // L2
  Relation relation = Relation::kAddOrRemoveOne;
};

// The same on a Poisson-sampled sum in whole units of a grid. `rounded_dimension` coordinates of the sum
// (of each rank's own sum) are rounded to the grid by dithering before the noise; 0: all contributions are
// whole. `dimension` >= rounded_dimension counts the coordinates with noise. Not for replace_one.
struct PoissonSampledDiscreteGaussianEvent {
  double sample_rate = 0;
  double sigma = 0;        // in grid units
  double sensitivity = 1;  // largest L2 norm of one record's contribution before rounding, in grid units
  int64_t rounded_dimension = 0;
  int64_t dimension = 1;
  Relation relation = Relation::kAddOrRemoveOne;
};

// P(x) ~ exp(-parameter |x|) on whole numbers.
struct DiscreteLaplaceEvent {
  double parameter = 0;
  int64_t sensitivity = 1;  // L1
  Relation relation = Relation::kAddOrRemoveOne;
};

// Difference of two Poisson draws of mean variance / 2, on whole numbers.
struct SkellamEvent {
  double variance = 0;
  double l1_sensitivity = 1;
  double l2_sensitivity = 1;
  Relation relation = Relation::kAddOrRemoveOne;
};

// The true one of `buckets` values with probability 1 - noise + noise / buckets, each other one with noise /
// buckets. replace_one, or zero_out (against a uniform report).
struct RandomizedResponseEvent {
  double noise = 0;
  int64_t buckets = 2;
  Relation relation = Relation::kReplaceOne;
};

struct ExponentialMechanismEvent {
  double epsilon = 0;
  Relation relation = Relation::kAddOrRemoveOne;
};

// RDP of at most xi + rho a at every order a > 1.
struct ZeroConcentratedEvent {
  double xi = 0;
  double rho = 0;
  Relation relation = Relation::kAddOrRemoveOne;
};

// Any (epsilon, delta)-DP release; delta 0: pure.
struct ApproximateDpEvent {
  double epsilon = 0;
  double delta = 0;
  Relation relation = Relation::kAddOrRemoveOne;
};

struct Charge;
// Adaptive composition of all parts, of one relation.
struct ComposedEvent {
  std::vector<Charge> parts;
};

using Event =
    std::variant<GaussianEvent, PoissonSampledGaussianEvent, TruncatedPoissonGaussianEvent,
                 SampledWithoutReplacementGaussianEvent, SameSampleGaussianEvent, ShuffledEpochGaussianEvent,
                 TreeAggregationEvent, BandedMatrixEvent, LaplaceEvent, DiscreteGaussianEvent,
                 PoissonSampledDiscreteGaussianEvent, NoiseSharesEvent, DiscreteLaplaceEvent, SkellamEvent,
                 RandomizedResponseEvent, ExponentialMechanismEvent, ZeroConcentratedEvent,
                 ApproximateDpEvent, ComposedEvent>;

struct Charge {
  Event event;
  int64_t count;
};

// {"mechanism": "poisson_subsampled_gaussian", "sample_rate": q, "noise_multiplier": s} and the like, names
// as the members; doubles survive the round trip to the last bit. For gaussian and
// poisson_subsampled_gaussian a sensitivity of 1 and add_or_remove_one are the meaning of absent fields;
// elsewhere every field is given. event_from_json throws UnsupportedEvent on an unknown mechanism or field,
// and checks the event.
nlohmann::json to_json(const Event& event);
Event event_from_json(const nlohmann::json& json);

// Throws ConfigError on a number out of range, UnsupportedEvent on a relation that the event's theorem does
// not cover or on parts of different relations. The edges are events too: no noise costs infinity, a rate of
// 0 costs nothing.
void check_event(const Event& event);

// The same release as those see it who are none of the ranks and know no share of the noise.
Event seen_by_outsiders(const Event& event);

// The relation for which the numbers of a checked event hold.
Relation relation(const Event& event);

}  // namespace dpfa::accounting
