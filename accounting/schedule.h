// A list of charges in its simplest equivalent form, which is what accountants work on.
#pragma once

#include <span>
#include <vector>

#include "accounting/event.h"

namespace dpfa::accounting {

struct Schedule {
  Relation relation = Relation::kAddOrRemoveOne;  // of every part
  // Distinct events with counts > 0 in an order that depends on nothing but the set of charges. Left of the
  // events: gaussian and poisson_subsampled_gaussian with sensitivity 1 (the latter with a rate in (0, 1)),
  // truncated_poisson_subsampled_gaussian, sampled_without_replacement_gaussian, laplace, discrete_gaussian,
  // poisson_subsampled_discrete_gaussian, poisson_subsampled_noise_shares, discrete_laplace, skellam,
  // randomized_response, exponential_mechanism, zero_concentrated, approximate_dp. Exact rewritings, not
  // bounds:
  // - same_sample_gaussian: poisson_subsampled_gaussian of noise (k sum_i s_i^-2)^(-1/2)
  // - shuffled_epoch_gaussian: gaussian, since a record lies in one batch of an epoch
  // - tree_aggregation: gaussian of noise s / sqrt(h), h = ceil(log2(steps + 1)) nodes on a path
  // - banded_matrix_cyclic_poisson: ceil(iterations / bands) x poisson_subsampled_gaussian (2306.08153)
  // - composed: its parts, counts multiplied
  // - poisson_subsampled_gaussian of rate 1: gaussian (replace_one: of twice the sensitivity)
  // - any release without noise: gaussian without noise, both cost infinity
  std::vector<Charge> parts;
};

// Throws as check_event does; ConfigError on a negative count; UnsupportedEvent on charges of different
// relations or counts beyond 2^53. Charges with count 0 and events that release nothing are left out.
Schedule simplify(std::span<const Charge> charges);

}  // namespace dpfa::accounting
