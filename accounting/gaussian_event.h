// The events of Gaussian noise, and the neighbouring relations.
//
// Noise and sensitivity are in one unit; only their ratio matters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dpfa::accounting {

// Neighbours differ in one record: it is there or not; it is exchanged for any other; it is exchanged for one
// that contributes nothing (so that the number of records is public).
enum class Relation { kAddOrRemoveOne, kReplaceOne, kZeroOut };
std::string relation_name(Relation relation);  // "add_or_remove_one", "replace_one", "zero_out"

struct GaussianEvent {
  double noise_multiplier = 0;
  double sensitivity = 1;  // largest L2 distance of neighbours' values, under `relation`
  Relation relation = Relation::kAddOrRemoveOne;
};

// Each record enters the sum independently with sample_rate; one Gaussian on the sum.
struct PoissonSampledGaussianEvent {
  double sample_rate = 0;
  double noise_multiplier = 0;
  double sensitivity = 1;  // largest L2 norm of one record's contribution, under every relation
  Relation relation = Relation::kAddOrRemoveOne;
};

// As before, but at most max_batch of the drawn records are kept, a uniformly random choice of them.
// `dataset_size` is a public upper bound on the number of records (of one rank, where each rank truncates;
// for ranks that differ: the largest dataset_size and the smallest max_batch). add_or_remove_one only.
struct TruncatedPoissonGaussianEvent {
  double sample_rate = 0;
  int64_t max_batch = 0;
  int64_t dataset_size = 0;
  double noise_multiplier = 0;
  double sensitivity = 1;  // largest L2 norm of one record's contribution
  Relation relation = Relation::kAddOrRemoveOne;
};

// A fixed share sample_rate of the records, drawn without replacement. replace_one only.
struct SampledWithoutReplacementGaussianEvent {
  double sample_rate = 0;
  double noise_multiplier = 0;
  double sensitivity = 1;  // L2 distance when one record of the batch is replaced: 2 C for clip norm C
  Relation relation = Relation::kReplaceOne;
};

// Several Gaussians on one draw: clip groups (one noise multiplier each, relative to the bound of its own
// group), all of them released `releases` times. Equals one Gaussian of noise
// (releases sum_i noise_multipliers_i^-2)^(-1/2) before sampling.
struct SameSampleGaussianEvent {
  double sample_rate = 0;
  std::vector<double> noise_multipliers;
  int64_t releases = 1;
  Relation relation = Relation::kAddOrRemoveOne;
};

// One epoch over shuffled fixed batches, each record in one of them; no amplification. zero_out only.
struct ShuffledEpochGaussianEvent {
  double noise_multiplier = 0;
  double sensitivity = 1;  // largest L2 norm of one record's contribution
  Relation relation = Relation::kZeroOut;
};

// Binary tree over `steps` sums; each record takes part in one of them.
struct TreeAggregationEvent {
  double noise_multiplier = 0;  // of each node
  int64_t steps = 0;
  double sensitivity = 1;  // L2, of one sum
  Relation relation = Relation::kAddOrRemoveOne;
};

// A whole run of `iterations` steps with noise correlated over `bands` steps and cyclic Poisson sampling:
// records lie in `bands` fixed groups, and a step samples its group with sample_rate. zero_out only.
struct BandedMatrixEvent {
  double sample_rate = 0;       // within the group of the step
  double noise_multiplier = 0;  // standard deviation / (largest column norm x contribution of one record)
  int64_t bands = 1;
  int64_t iterations = 0;
  Relation relation = Relation::kZeroOut;
};

}  // namespace dpfa::accounting
