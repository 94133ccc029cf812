#include "accounting/calibrate.h"

#include <cmath>
#include <string>

#include "accounting/accountant.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

constexpr double kSmallestNoise = 1e-3;
constexpr double kLargestNoise = 1e6;
constexpr int64_t kMostSteps = int64_t{1} << 50;

void check_target(double epsilon, double delta, double sample_rate) {
  if (!(epsilon > 0) || std::isinf(epsilon))
    throw ConfigError("the target epsilon must be positive and finite");
  if (!(delta > 0 && delta < 1))
    throw ConfigError("the target delta must lie between 0 and 1, both excluded");
  if (!(sample_rate > 0 && sample_rate <= 1)) throw ConfigError("the sample rate must lie in (0, 1]");
}

}  // namespace

double noise_multiplier_for(double target_epsilon, double target_delta, double sample_rate, int64_t steps) {
  check_target(target_epsilon, target_delta, sample_rate);
  if (steps < 1) throw ConfigError("steps = " + std::to_string(steps) + ": expected at least 1");
  auto meets = [&](double noise) {
    return epsilon_upper_bound(PoissonSampledGaussianEvent{sample_rate, noise}, steps, target_delta) <=
           target_epsilon;
  };
  double high = 1;
  while (!meets(high)) {
    if (high >= kLargestNoise) {
      throw ConfigError("no noise multiplier up to 1e6 gives epsilon " + std::to_string(target_epsilon) +
                        ": raise the target epsilon or delta, or lower steps or the sample rate");
    }
    high = std::min(2 * high, kLargestNoise);
  }
  while (high > kSmallestNoise && meets(high / 2)) high /= 2;
  if (high <= kSmallestNoise) return high;
  double low = high / 2;
  const double tolerance = 1e-6 * (high - low);
  while (high - low > tolerance) {
    const double middle = low + (high - low) / 2;
    (meets(middle) ? high : low) = middle;
  }
  return high;
}

int64_t steps_for(double target_epsilon, double target_delta, double sample_rate, double noise_multiplier) {
  check_target(target_epsilon, target_delta, sample_rate);
  const PoissonSampledGaussianEvent event{sample_rate, noise_multiplier};
  auto meets = [&](int64_t steps) {
    return epsilon_upper_bound(event, steps, target_delta) <= target_epsilon;
  };
  int64_t low = 0, high = 1;
  while (meets(high)) {
    if (high == kMostSteps) return high;
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (meets(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace dpfa::accounting
