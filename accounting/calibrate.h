// The parameters that meet a privacy target. All searches are over the reported epsilon itself
// (accountant.h), and return the safe side: epsilon(result) <= target_epsilon, never slightly above.
#pragma once

#include <cstdint>

namespace dpfa::accounting {

// Smallest noise_multiplier (relative width 1e-6 of its bracket, rounded up) for `steps` Poisson-sampled
// Gaussian steps. Throws ConfigError where no noise_multiplier up to 1e6 is enough or an argument is out of
// range.
double noise_multiplier_for(double target_epsilon, double target_delta, double sample_rate, int64_t steps);
// Largest number of steps that stays within the target, at most 2^50; 0 if not even one does.
int64_t steps_for(double target_epsilon, double target_delta, double sample_rate, double noise_multiplier);

}  // namespace dpfa::accounting
