// The parameters that meet a privacy target. All searches are over the reported epsilon itself
// (epsilon_upper_bound of accountant.h), and return the safe side: epsilon(result) <= target_epsilon, never
// slightly above, and the next value of the search's own lattice misses the target. The lattices (whole
// steps; noise multipliers and sample rates with 17 binary digits after the leading one, 8e-6 relative or
// finer) do not depend on the arguments, so a result moves with each argument as the reported epsilon does.
//
// ConfigError where an argument is out of range or no value meets the target; the text says what to change.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "accounting/event.h"

namespace dpfa::accounting {

// Smallest noise_multiplier in [2^-10, 2^20] for `steps` Poisson-sampled Gaussian steps.
double noise_multiplier_for(double target_epsilon, double target_delta, double sample_rate, int64_t steps);
// Largest number of steps that stays within the target, at most 2^50; 0 if not even one does.
int64_t steps_for(double target_epsilon, double target_delta, double sample_rate, double noise_multiplier);
// The same for repetitions of any event.
int64_t steps_for(double target_epsilon, double target_delta, const Event& event);
// Largest sample_rate in [2^-40, 1].
double sample_rate_for(double target_epsilon, double target_delta, double noise_multiplier, int64_t steps);

// The same for any family of charges: smallest noise in [2^-10, 2^20], for charges that cost less the larger
// their argument is.
using ChargeFamily = std::function<std::vector<Charge>(double)>;
double noise_multiplier_for(double target_epsilon, double target_delta, const ChargeFamily& charges);

}  // namespace dpfa::accounting
