// Epsilons below which no analysis of a mechanism can go: exact bounds of coarser views of its output.
#pragma once

#include <cstdint>

namespace dpfa::accounting {

// For `steps` Poisson-sampled Gaussian steps. The sum of all noisy outputs is a function of what was
// released; it has law sum_k Bin(k; steps, q) N(k, steps s^2) with the record and N(0, steps s^2) without,
// and for the events {sum > c} any valid epsilon is at least log((P(c) - delta) / Q(c)). Returns the largest
// such value found, rounded down; 0 where there is none.
double sum_epsilon_lower_bound(double sample_rate, double noise_multiplier, int64_t steps, double delta);

}  // namespace dpfa::accounting
