#include "accounting/inversion.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <map>
#include <numbers>
#include <vector>

#include "accounting/tilted_law.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

using Real = long double;
using Complex = std::complex<Real>;

constexpr Real kPi = std::numbers::pi_v<Real>;
constexpr Real kUnit = 0x1p-62L;  // bounds the relative error of one operation or library function
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Real kShare = 1e-7L;  // of delta that aliases and the cut may each take
constexpr Real kLargerTerms = 1e3L;
constexpr double kMostWork = 4e8;  // points x terms
constexpr double kMostTerms = 2e6;
constexpr size_t kMostEvents = 200;
constexpr int kMostDoublings = 8, kMostRefinements = 8;
constexpr double kWidth = 1e-6;  // relative, at which a bracket is narrow enough
constexpr double kSmallestNear = 1e-3;
constexpr double kToDouble = 1e-15;  // more than the rounding of a long double to a double

struct SampledSteps {
  Real q, s, count;
};

struct Composition {
  std::vector<SampledSteps> sampled;  // 0 < q < 1
  Real precision = 0;                 // sum of count / s^2 of the plain Gaussians
  bool without_noise = false;
};

Composition compose(std::span<const GaussianSteps> steps) {
  std::map<std::pair<double, double>, int64_t> counts;
  for (const GaussianSteps& step : steps) {
    if (!(step.sample_rate >= 0 && step.sample_rate <= 1) || !(step.noise_multiplier >= 0) ||
        std::isinf(step.noise_multiplier) || step.count < 0) {
      throw ConfigError(
          "a Gaussian step needs a sample rate in [0, 1], a finite noise multiplier >= 0 and a count >= 0");
    }
    if (step.count > 0 && step.sample_rate > 0)
      counts[{step.sample_rate, step.noise_multiplier}] += step.count;
  }
  Composition all;
  for (const auto& [key, count] : counts) {
    const Real q = key.first, s = key.second;
    if (s == 0) {
      all.without_noise = true;
    } else if (q == 1) {
      all.precision += static_cast<Real>(count) / (s * s);
    } else {
      all.sampled.push_back({q, s, static_cast<Real>(count)});
    }
  }
  return all;
}

// What a moment needs is the same code with no oscillation to resolve: its points are few.
Real log_moment_of(const Composition& all, RecordChange change, Real theta) {
  Real sum = all.precision * theta * (theta + 1) / 2;
  for (const SampledSteps& step : all.sampled)
    sum += step.count * TiltedLaw(step.q, step.s, change, theta, 0).log_moment();
  return sum;
}

// Least value of a function with one minimum, over positive arguments.
template <typename Function>
Real argument_of_minimum(Real low, Real high, const Function& function) {
  constexpr Real kGolden = 0.6180339887498948482L;
  Real a = std::log(low), d = std::log(high);
  Real b = d - kGolden * (d - a), c = a + kGolden * (d - a);
  Real at_b = function(std::exp(b)), at_c = function(std::exp(c));
  for (int i = 0; i < 40; ++i) {
    if (at_b <= at_c) {
      d = c, c = b, at_c = at_b;
      b = d - kGolden * (d - a), at_b = function(std::exp(b));
    } else {
      a = b, b = c, at_b = at_c;
      c = a + kGolden * (d - a), at_c = function(std::exp(c));
    }
  }
  return std::exp(at_b <= at_c ? b : c);
}

struct Bounds {
  Real lower, upper;  // of delta
};

// delta of one direction as a function of epsilon, by one fixed set of nodes theta + i k spacing.
class Inversion {
 public:
  Inversion(const Composition& all, RecordChange change, Real delta, Real near);
  const std::string& failure() const { return failure_; }
  Bounds delta(Real epsilon) const;

 private:
  void choose_line(Real near);
  bool choose_nodes(Real near);
  void make_terms();
  Real log_decay(const std::vector<TiltedLaw>& laws, Real t) const;

  const Composition& all_;
  const RecordChange change_;
  const Real log_share_;  // log of what an alias or the cut may take
  std::string failure_;
  Real theta_ = 0, log_moment_ = 0, log_moment_error_ = 0;
  Real period_ = 0, far_theta_ = 0, log_far_moment_ = 0;
  Real most_t_ = 0, log_cut_ = 0;  // of the cut: log of (omitted terms / common factor)
  std::vector<TiltedLaw> laws_;
  std::vector<Complex> terms_;  // M(z_k) / (M(theta) z_k (z_k + 1)), k = 0, 1, ...; those beyond k = 0 twice
  Real terms_error_ = 0;        // sum of the errors of their sizes
};

Inversion::Inversion(const Composition& all, RecordChange change, Real delta, Real near)
    : all_(all), change_(change), log_share_(std::log(kShare * delta)) {
  choose_line(near);
  if (choose_nodes(near)) make_terms();
}

// On the line through the saddle point the terms are as small as their sum. To its left they are larger, at
// most kLargerTerms times here, but the bound of the aliases beyond epsilon, which a moment further right
// gives, falls faster, so the period can be shorter and the terms fewer.
void Inversion::choose_line(Real near) {
  const auto log_size = [&](Real theta, Real log_moment) {
    return log_moment - theta * near - std::log(theta * (theta + 1));
  };
  const Real saddle = argument_of_minimum(
      1e-3L, 3e4L, [&](Real theta) { return log_size(theta, log_moment_of(all_, change_, theta)); });
  std::vector<std::pair<Real, Real>> moments;  // theta and log M, ascending
  for (const Real factor : {0.5L, 0.6L, 0.7L, 0.8L, 0.9L, 1.0L, 1.1L, 1.2L, 1.4L, 1.7L, 2.0L, 3.0L})
    moments.emplace_back(factor * saddle, log_moment_of(all_, change_, factor * saddle));
  const Real least = log_size(saddle, log_moment_of(all_, change_, saddle));
  period_ = INFINITY;
  for (size_t i = 0; i < moments.size() && moments[i].first <= saddle; ++i) {
    const auto [theta, log_moment] = moments[i];
    if (log_size(theta, log_moment) > least + std::log(kLargerTerms)) continue;
    for (size_t j = i + 1; j < moments.size(); ++j) {
      const auto [far, log_far] = moments[j];
      const Real beyond = (log_far - far * near - log_share_) / (far - theta);
      const Real period = std::max(beyond, (1 - log_share_) / theta);
      if (!(period < period_)) continue;
      period_ = period;
      theta_ = theta, log_moment_ = log_moment;
      far_theta_ = far, log_far_moment_ = log_far;
    }
  }
}

Real Inversion::log_decay(const std::vector<TiltedLaw>& laws, Real t) const {
  Real sum = -all_.precision * t * t / 2;
  for (size_t i = 0; i < laws.size(); ++i) sum += all_.sampled[i].count * std::log(laws[i].decay(t));
  return sum;
}

// The smallest number of terms beyond which what is omitted is a negligible share of delta: at most
// exp(log M - theta e) decay(t) / (pi t), as 1 / |z (z+1)| <= 1 / t^2 and the sum of 1 / k^2 beyond K is
// below 1 / K.
bool Inversion::choose_nodes(Real near) {
  std::vector<TiltedLaw> laws;
  for (const SampledSteps& step : all_.sampled) laws.emplace_back(step.q, step.s, change_, theta_, 0);
  const Real allowed = log_share_ - log_moment_ + theta_ * near, spacing = 2 * kPi / period_;
  Real terms = 16;
  for (;; terms = std::ceil(1.4L * terms)) {
    if (terms > kMostTerms) {
      failure_ = "the loss of one step is too concentrated for this derivation";
      return false;
    }
    log_cut_ = log_decay(laws, terms * spacing) - std::log(kPi * terms * spacing);
    if (log_cut_ <= allowed) break;
  }
  most_t_ = terms * spacing;
  double work = 0;
  for (const SampledSteps& step : all_.sampled)
    work += TiltedLaw::points_needed(step.q, step.s, change_, theta_, most_t_) * static_cast<double>(terms);
  if (!(work < kMostWork)) {
    failure_ = "this derivation would take longer than it may (" + std::to_string(work) + " operations)";
    return false;
  }
  terms_.resize(static_cast<size_t>(terms) + 1);
  return true;
}

void Inversion::make_terms() {
  const Real spacing = 2 * kPi / period_;
  std::vector<TiltedLaw::Walk> walks;
  laws_.reserve(all_.sampled.size());  // walks refer to them
  log_moment_ = all_.precision * theta_ * (theta_ + 1) / 2;
  log_moment_error_ = 8 * kUnit * log_moment_;
  for (const SampledSteps& step : all_.sampled) {
    laws_.emplace_back(step.q, step.s, change_, theta_, most_t_);
    walks.emplace_back(laws_.back(), spacing);
    log_moment_ += step.count * laws_.back().log_moment();
    log_moment_error_ += step.count * laws_.back().error(0);
  }
  log_moment_error_ += static_cast<Real>(laws_.size()) * kUnit * std::fabs(log_moment_);
  for (size_t k = 0; k < terms_.size(); ++k) {
    const Real t = static_cast<Real>(k) * spacing;
    Real log_size = -all_.precision * t * t / 2, turn = all_.precision * t * (2 * theta_ + 1) / 2;
    Real grown = log_size;  // log of the size with every error added to it
    Real rounding = (std::fabs(log_size) + std::fabs(turn)) * 8;  // of the logarithms, in units
    for (size_t i = 0; i < laws_.size(); ++i) {
      const Complex phi = walks[i].next();
      const Real count = all_.sampled[i].count, size = std::abs(phi);
      log_size += count * std::log(size);
      grown += count * std::log(size + laws_[i].error(t));
      turn += count * std::arg(phi);
      rounding += count * (std::fabs(std::log(size)) + kPi) * 8;
    }
    const Complex z{theta_, t}, weight = (k == 0 ? 1.0L : 2.0L) / (z * (z + 1.0L));
    const Real size = std::exp(log_size), most = std::exp(grown);
    terms_[k] = size > 0 ? std::polar(size, turn) * weight : Complex(0);
    // |(a + e)^n - a^n| <= (|a| + |e|)^n - |a|^n.
    const Real difference = most * -std::expm1(log_size - grown);
    terms_error_ += std::abs(weight) * (difference + most * (rounding + 64) * kUnit);
  }
}

Bounds Inversion::delta(Real epsilon) const {
  const Real spacing = 2 * kPi / period_;
  Real sum = 0, sizes = 0;
  for (size_t k = 0; k < terms_.size(); ++k) {
    const Real angle = -static_cast<Real>(k) * spacing * epsilon;
    sum += terms_[k].real() * std::cos(angle) - terms_[k].imag() * std::sin(angle);
    // The angle is off by a few units of itself.
    sizes += std::abs(terms_[k]) * (std::fabs(angle) + static_cast<Real>(terms_.size()) + 64);
  }
  const Real error = terms_error_ + 8 * kUnit * sizes;
  const Real log_factor = log_moment_ - theta_ * epsilon;
  const Real factor_error = std::expm1(log_moment_error_ + 16 * kUnit * (std::fabs(log_factor) + 64));
  const Real factor = std::exp(log_factor), share = factor / period_;
  const Real cut = std::exp(log_factor + log_cut_);
  const Real most = (std::max<Real>(0, sum + error) * share + cut) * (1 + factor_error);
  // Aliases: those at smaller epsilons are at most exp(-theta P m), those beyond at most
  // exp(log M(far) - far e - (far - theta) P m).
  const auto series = [](Real log_first) { return std::exp(log_first) / -std::expm1(log_first); };
  const Real below = series(-theta_ * period_);
  const Real ratio = -(far_theta_ - theta_) * period_;
  const Real beyond = std::exp(log_far_moment_ - far_theta_ * epsilon) * series(ratio);
  const Real least = ((sum - error) * share - cut) * (1 - factor_error) - (below + beyond) * (1 + kShare);
  return {least, most};
}

// Where `holds` holds at `good` and not at `bad`: an argument near the border at which it was seen to hold.
template <typename Predicate>
Real border(Real good, Real bad, const Predicate& holds) {
  for (int i = 0; i < 100 && std::fabs(good - bad) > 1e-9L * good; ++i) {
    const Real middle = (good + bad) / 2;
    (holds(middle) ? good : bad) = middle;
  }
  return good;
}

// One step has a closed form: with z where r(z) = exp(+-epsilon), delta is a difference of two normal
// probabilities.
Bounds one_step_delta(const SampledSteps& step, RecordChange change, Real epsilon) {
  const Real q = step.q, s = step.s, sign = change == RecordChange::kRemoved ? 1 : -1;
  const auto above = [](Real x) { return std::erfc(x / std::numbers::sqrt2_v<Real>) / 2; };
  const Real inside = 1 + std::expm1(sign * epsilon) / q;
  if (inside <= 0) return {0, 0};  // no loss of an added record is that large
  const Real z = s * s * std::log(inside) + 0.5L;
  const Real with = (1 - q) * above(sign * z / s) + q * above(sign * (z - 1) / s),
             without = above(sign * z / s);
  const Real first = sign > 0 ? with : without, second = std::exp(epsilon) * (sign > 0 ? without : with);
  // An error of z hardly moves the difference (it is stationary there) but each part: by its size to the
  // second order.
  const Real error = (first + second) * kUnit * 64 * (1 + z * z / (s * s) + 1 / q);
  return {first - second - error, first - second + error};
}

template <typename DeltaBounds>
EpsilonBracket bracket_from(const DeltaBounds& bounds, Real delta, Real near) {
  const auto private_at = [&](Real epsilon) { return bounds(epsilon).upper <= delta; };
  const auto exceeded_at = [&](Real epsilon) { return bounds(epsilon).lower > delta; };
  Real upper = near;
  for (Real step = 1e-6L * near; !private_at(upper); step *= 2) {
    upper += step;
    if (upper > 4 * near + 4) return {0, kInfinity, "the exact epsilon is not near the one reported"};
  }
  upper = private_at(0) ? 0 : border(upper, Real{0}, private_at);
  Real lower = upper;
  for (Real step = 1e-9L * upper; lower > 0 && !exceeded_at(lower); step *= 2) lower -= step;
  if (lower > 0) lower = border(lower, upper, exceeded_at);
  return {static_cast<double>(std::max<Real>(0, lower)) * (1 - kToDouble),
          static_cast<double>(upper) * (1 + kToDouble), ""};
}

EpsilonBracket bracket_of(const Composition& all, RecordChange change, Real delta, Real near) {
  if (all.precision == 0 && all.sampled.size() == 1 && all.sampled[0].count == 1) {
    return bracket_from([&](Real epsilon) { return one_step_delta(all.sampled[0], change, epsilon); }, delta,
                        near);
  }
  const Inversion inversion(all, change, delta, near);
  if (!inversion.failure().empty()) return {0, kInfinity, inversion.failure()};
  return bracket_from([&](Real epsilon) { return inversion.delta(epsilon); }, delta, near);
}

// An added record's loss is bounded: delta is 0 from there on.
Real most_added_loss(const Composition& all) {
  Real sum = all.precision > 0 ? INFINITY : 0;
  for (const SampledSteps& step : all.sampled) sum -= step.count * std::log1p(-step.q);
  return sum;
}

// From a `near` that is too small or loose there is no bracket, or a wide one, because the terms are large
// beside their sum. From where the bracket before lies they are not.
EpsilonBracket refined(const Composition& all, RecordChange change, Real delta, Real near) {
  EpsilonBracket bracket = bracket_of(all, change, delta, near);
  const std::string first_reason = bracket.reason;
  for (int i = 0; i < kMostDoublings && !bracket.reason.empty(); ++i)
    bracket = bracket_of(all, change, delta, near *= 2);
  if (!bracket.reason.empty()) return {0, kInfinity, first_reason};
  for (int i = 0; i < kMostRefinements && bracket.upper - bracket.lower > kWidth * bracket.upper; ++i) {
    const EpsilonBracket next = bracket_of(all, change, delta, std::max<Real>(bracket.upper, kSmallestNear));
    if (!next.reason.empty()) break;
    const double width = bracket.upper - bracket.lower;
    bracket = {std::max(bracket.lower, next.lower), std::min(bracket.upper, next.upper), ""};
    if (bracket.upper - bracket.lower > 0.9 * width) break;
  }
  return bracket;
}

}  // namespace

EpsilonBracket certified_epsilon(std::span<const GaussianSteps> steps, double delta, double near) {
  if (!(delta > 0 && delta < 1)) throw ConfigError("a certified epsilon needs a delta between 0 and 1");
  const Composition all = compose(steps);
  if (all.without_noise) return {kInfinity, kInfinity, ""};
  if (all.sampled.empty() && all.precision == 0) return {0, 0, ""};
  if (all.sampled.size() > kMostEvents)
    return {0, kInfinity, "more than " + std::to_string(kMostEvents) + " distinct events"};
  const Real start = std::isfinite(near) ? std::max(near, kSmallestNear) : 1.0;
  const EpsilonBracket removed = refined(all, RecordChange::kRemoved, delta, start);
  if (!removed.reason.empty()) return removed;
  EpsilonBracket added{0, static_cast<double>(most_added_loss(all)) * (1 + 1e-12), ""};
  if (added.upper > removed.lower) added = refined(all, RecordChange::kAdded, delta, removed.upper);
  if (!added.reason.empty()) return {removed.lower, kInfinity, added.reason};
  return {std::max(removed.lower, added.lower), std::max(removed.upper, added.upper), ""};
}

}  // namespace dpfa::accounting
