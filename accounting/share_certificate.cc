#include "accounting/share_certificate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <boost/multiprecision/cpp_bin_float.hpp>

#include "accounting/inversion.h"
#include "src/base/error.h"
#include "src/base/random/discrete_gaussian.h"

namespace dpfa::accounting {
namespace {

using Real = long double;
using Wide = boost::multiprecision::cpp_bin_float_50;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Real kPi = 3.141592653589793238462643383279502884L;
constexpr Real kBlur = 6;              // r^2
constexpr Real kSafe = 1e-15L;         // more than the rounding of a few operations
constexpr Real kFailureShare = 1e-9L;  // of delta, for dithers that exceed their radius

// What the releases may differ by from those that are bounded.
struct Errors {
  Real log_ratio = 0;   // of each law to the Gaussian one
  Real chi_square = 0;  // of each law as drawn to the discrete Gaussian
};

// Twice the relative error 2.0001 exp(-2 pi^2 r^2) of a theta sum, as a log ratio, rounded up.
Real theta_error(Real square) { return 5 * std::exp(-2 * kPi * kPi * square); }

Real remaining_variance(const ShareSteps& part) {
  const Real share = part.share_sigma;
  return share * share * static_cast<Real>(part.ranks - part.colluding_ranks);
}

void check(const ShareSteps& part) {
  const bool good = part.sample_rate >= 0 && part.sample_rate <= 1 && part.share_sigma >= 4 &&
                    std::isfinite(part.share_sigma) && part.colluding_ranks >= 0 &&
                    part.colluding_ranks < part.ranks && part.sensitivity > 0 &&
                    std::isfinite(part.sensitivity) && part.rounded_dimension >= 0 &&
                    part.rounded_dimension <= part.dimension && part.dimension >= 1 && part.count >= 0;
  if (!good)
    throw ConfigError(
        "steps with noise shares: expected a rate in [0, 1], shares of at least 4, colluding_ranks below "
        "ranks, "
        "a sensitivity > 0 and 0 <= rounded_dimension <= dimension");
}

Errors errors_of(std::span<const ShareSteps> steps) {
  Errors errors;
  Real samples = 0;
  for (const ShareSteps& part : steps) {
    const Real variance = remaining_variance(part), share = part.share_sigma;
    const Real honest = static_cast<Real>(part.ranks - part.colluding_ranks);
    const Real numbers = static_cast<Real>(part.count) * static_cast<Real>(part.dimension);
    // The sum of shares, the rounding of a Gaussian to it, its blur to a Gaussian: bounds of all three.
    const Real blurred = variance * kBlur / (variance + kBlur);
    errors.log_ratio += numbers * ((honest - 1) * theta_error(share * share / 2) + theta_error(kBlur)) +
                        static_cast<Real>(part.count) * theta_error(blurred);
    samples += numbers * honest;
  }
  errors.chi_square = std::expm1(samples * static_cast<Real>(DiscreteGaussian::kChiSquare)) * (1 + kSafe);
  return errors;
}

// ln E exp(c |D|^2) for the rounded difference D of a contribution of length `length`, at most.
Real log_moment(Real length, Real dithered, Real c) {
  if (dithered == 0) return c * length * length;
  const Real left = 1 - c / 2;
  return c * length * length / left - dithered * std::log1p(-c / 2) / 2;
}

// A length that |D| exceeds with a probability of at most exp(-log_odds).
Real radius_of(const ShareSteps& part, Real log_odds) {
  const Real length = part.sensitivity, dithered = static_cast<Real>(part.rounded_dimension);
  if (dithered == 0) return length;
  Real least = (length + std::sqrt(dithered)) * (length + std::sqrt(dithered));  // always holds
  // Markov's inequality at any c; the best one is looked for on a fine lattice.
  for (Real c = 1e-16L; c < 2; c *= 1.0005L)
    least = std::min(least, (log_moment(length, dithered, c) + log_odds) / c);
  return std::sqrt(least) * (1 + kSafe);
}

enum class End { kUpper, kLower };

// The Poisson-sampled Gaussians that bound the steps from one side; a noise multiplier of 0 bounds nothing.
std::vector<GaussianSteps> gaussians(std::span<const ShareSteps> steps, Real log_odds, End end) {
  std::vector<GaussianSteps> result;
  for (const ShareSteps& part : steps) {
    const Real variance = remaining_variance(part);
    if (end == End::kUpper) {
      const Real noise = std::sqrt(variance - kBlur) / radius_of(part, log_odds) * (1 - kSafe);
      result.push_back({part.sample_rate, std::nextafter(static_cast<double>(noise), 0.0), part.count});
    } else if (part.sensitivity >= 1) {
      const Real noise = std::sqrt(variance + kBlur) / std::floor(part.sensitivity) * (1 + kSafe);
      result.push_back({part.sample_rate, std::nextafter(static_cast<double>(noise), kInfinity), part.count});
    }
  }
  return result;
}

// (a - 1) D_a of one step at whole a >= 2: the binomial sum, term by term.
Wide log_whole_moment(const ShareSteps& part, int order) {
  const Wide q = part.sample_rate, length = part.sensitivity, dithered = part.rounded_dimension;
  const Wide variance = Wide(part.share_sigma) * part.share_sigma * (part.ranks - part.colluding_ranks);
  Wide sum = 0, binomial = 1;
  for (int k = 0; k <= order; ++k) {
    const Wide c = Wide(k) * (k - 1) / (2 * variance);
    if (dithered > 0 && c >= 2) return kInfinity;
    Wide moment = c * length * length;
    if (dithered > 0) moment = moment / (1 - c / 2) - dithered / 2 * log(Wide(1 - c / 2));
    sum += binomial * pow(Wide(1 - q), order - k) * pow(q, k) * exp(moment);
    binomial = binomial * (order - k) / (k + 1);
  }
  return log(sum);
}

// The epsilon of the sums of section 3, converted as Canonne, Kamath and Steinke 2020, proposition 12, do.
double whole_order_epsilon(std::span<const ShareSteps> steps, const Errors& errors, Real delta) {
  const auto moment = [&](int order) {
    Wide sum = 0;
    for (const ShareSteps& part : steps) sum += Wide(part.count) * log_whole_moment(part, order);
    return static_cast<Real>(sum);
  };
  const auto epsilon = [&](Real order, Real log_moment) {
    const Real divergence = (log_moment + errors.log_ratio * (2 * order - 1)) / (order - 1);
    return divergence + std::log1p(-1 / order) - std::log(delta * order) / (order - 1);
  };
  std::vector<int> orders;
  for (int order = 2; order <= 1024; order = std::max(order + 1, order + order / 8)) orders.push_back(order);
  Real best = kInfinity;
  int near = 2;
  for (const int order : orders)
    if (const Real value = epsilon(static_cast<Real>(order), moment(order)); value < best)
      best = value, near = order;
  // (a - 1) D_a is convex in a and 0 at 1: chords bound it between whole orders.
  const int first = std::max(1, near - near / 8 - 1), last = near + near / 8 + 1;
  Real below = first == 1 ? 0 : moment(first);
  for (int order = first; order < last; ++order) {
    const Real above = moment(order + 1);
    for (int part = 1; part <= 64; ++part) {
      const Real share = static_cast<Real>(part) / 64;
      best = std::min(best, epsilon(static_cast<Real>(order) + share, below + share * (above - below)));
    }
    below = above;
  }
  return static_cast<double>(std::max<Real>(0, best)) * (1 + 1e-15);
}

constexpr Real kReach = 0.05L;  // bounds that lie within it above a guess hold

// The least h of section 6 for which X / h (1 + exp(e)) is at most h delta for all e up to epsilon + kReach.
Real sampler_shift(Real chi_square, Real epsilon, Real delta) {
  return std::sqrt(chi_square * (1 + std::exp(epsilon + kReach)) / delta) * (1 + kSafe);
}

}  // namespace

ShareBracket certified_share_epsilon(std::span<const ShareSteps> steps, double delta, double near) {
  if (!(delta > 0 && delta < 1)) throw ConfigError("delta: expected a number between 0 and 1");
  Real count = 0;
  for (const ShareSteps& part : steps) {
    check(part);
    count += static_cast<Real>(part.count);
  }
  if (count == 0) return {0, 0, 0, {}};
  const Errors errors = errors_of(steps);
  const Real odds = std::log(count / (kFailureShare * static_cast<Real>(delta)));
  // The error of the sampler grows with epsilon, which is guessed.
  Real guess = std::isfinite(near) ? near : 20;
  ShareBracket bracket{0, kInfinity, 0, "no guess of epsilon was near its bounds"};
  for (int round = 0; round < 4; ++round) {
    const Real shift = sampler_shift(errors.chi_square, guess, delta);
    if (!(shift < 0.1L)) return {0, kInfinity, 0, "the error of the sampler is too large for this delta"};
    const Real added = 3 * shift + 2 * errors.log_ratio, ideal = delta * (1 - 2 * shift);
    const Real smaller = (ideal - kFailureShare * delta) * std::exp(-errors.log_ratio) * (1 - kSafe),
               larger = delta * (1 + 4 * shift) * std::exp(errors.log_ratio) * (1 + kSafe);
    const auto bound = [&](End end, Real at) {
      return certified_epsilon(gaussians(steps, odds, end), static_cast<double>(at),
                               static_cast<double>(guess));
    };
    const EpsilonBracket above = bound(End::kUpper, smaller), below = bound(End::kLower, larger);
    bracket.reason = above.reason.empty() ? below.reason : above.reason;
    if (!bracket.reason.empty()) return {0, kInfinity, 0, bracket.reason};
    bracket.upper = static_cast<double>((above.upper + added) * (1 + kSafe));
    bracket.lower =
        static_cast<double>(std::clamp<Real>((below.lower - added) * (1 - kSafe), 0, guess + kReach));
    bracket.least_upper = above.lower * (1 - 1e-12);
    // The sum at whole orders is seldom the smaller bound.
    if (bracket.upper > near * (1 + 1e-6)) {
      const auto sum =
          static_cast<double>(whole_order_epsilon(steps, errors, ideal) + 3 * shift * (1 + kSafe));
      bracket.upper = std::min(bracket.upper, sum);
      bracket.least_upper = std::min(bracket.least_upper, sum);
    }
    if (bracket.upper <= guess + kReach) return bracket;
    guess = bracket.upper;
  }
  bracket.upper = kInfinity;
  return bracket;
}

}  // namespace dpfa::accounting
