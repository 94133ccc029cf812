#include "accounting/tilted_law.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dpfa::accounting {
namespace {

using Real = long double;
using Complex = std::complex<Real>;

constexpr Real kPi = std::numbers::pi_v<Real>;
// An operation or library function is off by at most this much, relative: four units in the last place of 64
// bits.
constexpr Real kUnit = 0x1p-62L;
// Everything that is left out of a sum or integral is below exp(-kNegligible) of it.
constexpr Real kNegligible = 52;
constexpr int kCells = 600;
constexpr size_t kTurnsBetweenResets = 64;
constexpr size_t kBlock = 64;

Real log_ratio(Real q, Real exponent) {
  if (exponent < 20) return std::log1p(q * std::expm1(exponent));
  return exponent + std::log(q) + std::log1p((1 - q) / q * std::exp(-exponent));
}

// Sums in blocks round fewer times: kBlock + size / kBlock additions touch one element.
template <typename Term>
Real block_sum(size_t size, Term term) {
  Real sum = 0;
  for (size_t first = 0; first < size; first += kBlock) {
    Real part = 0;
    for (size_t j = first; j < std::min(size, first + kBlock); ++j) part += term(j);
    sum += part;
  }
  return sum;
}

// Rounding errors of the bounds below are far smaller than this factor.
constexpr Real kOutward = 1 + 1e-12L;

}  // namespace

// Outside the range lies less than exp(-kNegligible) of M(theta), which is at least 1 (Jensen) and, for a
// removed record, at least q^(1+theta) exp(theta (1+theta) / (2 s^2)).
TiltedLaw::Range TiltedLaw::range(Real q, Real s, RecordChange change, Real theta, Real most_t) {
  const Real variance = s * s, plain = std::sqrt(2 * kNegligible);
  Range range;
  if (change == RecordChange::kRemoved) {
    // Left of 1/2 the ratio is below 1; right of it below exp((2x-1) / (2 s^2)), which moves the normal by
    // 1+theta.
    const Real excess = std::min(theta * (1 + theta) / (2 * variance), -(1 + theta) * std::log(q));
    range.low = -s * plain;
    range.high = 1 + theta + s * std::sqrt(2 * (kNegligible + excess));
  } else {
    // Left of 1/2 the ratio is above 1-q; right of it above 1.
    range.low = -s * std::sqrt(2 * (kNegligible - theta * std::log1p(-q)));
    range.high = 0.5L + s * plain;
  }
  // On the line at height d = c s^2 the argument of r is at most c and |r| is between cos(c/2) r and r. The
  // trapezoid rule with spacing w is then off by 2 exp(c^2 s^2 / 2 + t c - 2 pi c s^2 / w) M(theta), times
  // cos(c/2)^-theta for an added record.
  range.spacing = 0;
  for (const Real c : {1.5L, 1.0L, 0.5L, 0.25L, 0.1L, 0.03L, 0.01L}) {
    const Real modulus = change == RecordChange::kAdded ? -theta * std::log(std::cos(c / 2)) : 0;
    const Real exponent = c * c * variance / 2 + c * most_t + modulus + kNegligible;
    range.spacing = std::max(range.spacing, 2 * kPi * c * variance / exponent);
  }
  range.spacing = std::min(range.spacing, s);
  return range;
}

double TiltedLaw::points_needed(Real q, Real s, RecordChange change, Real theta, Real most_t) {
  const Range r = range(q, s, change, theta, most_t);
  return static_cast<double>((r.high - r.low) / r.spacing) + 2;
}

TiltedLaw::TiltedLaw(Real q, Real s, RecordChange change, Real theta, Real most_t) {
  const Range r = range(q, s, change, theta, most_t);
  const Real sign = change == RecordChange::kRemoved ? 1 : -1;
  const Real power = change == RecordChange::kRemoved ? 1 + theta : theta;  // of exp(loss)
  const auto count = static_cast<size_t>(std::ceil((r.high - r.low) / r.spacing)) + 1;
  losses_.resize(count);
  weights_.resize(count);
  std::vector<Real> errors(count), sizes(count);  // of each loss, in units; of each weight's exponent
  Real largest = -INFINITY;
  for (size_t j = 0; j < count; ++j) {
    const Real x = r.low + static_cast<Real>(j) * r.spacing;
    const Real exponent = (2 * x - 1) / (2 * s * s), ratio = log_ratio(q, exponent);
    const Real slope = q * std::exp(exponent - ratio) / (s * s);
    losses_[j] = sign * ratio;
    errors[j] = std::fabs(ratio) + slope * (std::fabs(x) + 1);
    const Real normal = x * x / (2 * s * s);
    weights_[j] = power * losses_[j] - normal;
    sizes[j] = power * errors[j] + normal;
    largest = std::max(largest, weights_[j]);
  }
  const Real sum = block_sum(count, [&](size_t j) { return weights_[j] = std::exp(weights_[j] - largest); });
  Real size = 0;
  for (size_t j = 0; j < count; ++j) {
    weights_[j] /= sum;
    size += weights_[j] * sizes[j];
    mean_loss_error_ += weights_[j] * errors[j];
  }
  log_moment_ = largest + std::log(sum * r.spacing / (s * std::sqrt(2 * kPi)));
  rounding_ = (kBlock + static_cast<Real>(count / kBlock) + 8 * (size + std::fabs(largest)) + 64) * kUnit +
              16 * std::exp(-kNegligible);
  make_cells(q, s, change, theta);
}

Real TiltedLaw::error(Real t) const {
  const Real turns = 8 * static_cast<Real>(kTurnsBetweenResets);
  return (2 * rounding_ + (8 * t * mean_loss_error_ + turns) * kUnit) * kOutward;
}

// The density of the loss at r(x) is h = N(x; 0, s^2) r^power / (M |d loss / dx|), |d loss / dx| = w / s^2
// with w = q e / (1 - q + q e) increasing. Between two points every factor lies between its values at them.
void TiltedLaw::make_cells(Real q, Real s, RecordChange change, Real theta) {
  const Real variance = s * s;
  const bool removed = change == RecordChange::kRemoved;
  const Real power = removed ? 1 + theta : -theta;  // of r
  const Range r = range(q, s, change, theta, 0);
  // The critical points of log h solve x = (2 + theta) w - 1 (removed) or x = (1 - theta) w - 1 (added): at
  // most three of them, all inside. So h rises and falls at most twice, and vanishes at both ends.
  const Real low = std::min<Real>(r.low, removed ? -2 : -2 - theta), high = std::max<Real>(r.high, 2 + theta);
  struct Point {
    Real x, loss, log_ratio, log_slope;
  };
  const auto at = [&](Real x) {
    const Real exponent = (2 * x - 1) / (2 * variance), ratio = log_ratio(q, exponent);
    return Point{x, removed ? ratio : -ratio, power * ratio, std::log(q / variance) + exponent - ratio};
  };
  const auto normal = [&](Real x) { return -x * x / (2 * variance) - std::log(s * std::sqrt(2 * kPi)); };
  Point left = at(low);
  for (int i = 1; i <= kCells; ++i) {
    const Point right = at(low + (high - low) * static_cast<Real>(i) / kCells);
    const Real far = std::max(std::fabs(left.x), std::fabs(right.x));
    const Real near = left.x <= 0 && right.x >= 0 ? 0 : std::min(std::fabs(left.x), std::fabs(right.x));
    const auto [least, most] = std::minmax(left.log_ratio, right.log_ratio);
    Cell cell;
    cell.begin = std::min(left.loss, right.loss);
    cell.end = std::max(left.loss, right.loss);
    cell.lowest = std::exp(normal(far) + least - right.log_slope - log_moment_) / kOutward;
    cell.highest = std::exp(normal(near) + most - left.log_slope - log_moment_) * kOutward;
    highest_ = std::max(highest_, cell.highest);
    cells_.push_back(cell);
    left = right;
  }
  if (!removed) std::reverse(cells_.begin(), cells_.end());
}

// Two bounds. The total variation of h is at most 4 sup h, so integration by parts gives |phi(t)| <= 4 sup h
// / t. And where h >= a on an interval of length b, phi is a mixture in which the uniform law on it has the
// share a b: |phi(t)| <= 1 - a b (1 - |sinc(t b / 2)|), with |sinc| at and beyond u at most max(sinc(u), 1/u)
// or 0.2173.
Real TiltedLaw::decay(Real t) const {
  Real gain = 0;
  for (size_t i = 0; i < cells_.size(); ++i) {
    Real lowest = INFINITY;
    for (size_t j = i; j < cells_.size(); ++j) {
      lowest = std::min(lowest, cells_[j].lowest);
      const Real width = (cells_[j].end - cells_[i].begin) / kOutward;
      if (lowest <= 0) break;
      const Real u = t * width / 2;
      Real sinc = 1 - u * u / 6 * (1 - u * u / 20);
      if (u > 1) sinc = u < kPi ? std::max<Real>(0.2173L, std::sin(u) / u) : std::min<Real>(0.2173L, 1 / u);
      gain = std::max(gain, std::min<Real>(1, lowest * width) * (1 - sinc));
    }
  }
  return std::min({Real{1}, 4 * highest_ / t, 1 - gain / kOutward});
}

TiltedLaw::Walk::Walk(const TiltedLaw& law, Real step)
    : law_(law), step_(step), phases_(law.losses_.size()), turns_(law.losses_.size()) {
  for (size_t j = 0; j < turns_.size(); ++j) turns_[j] = std::polar(Real{1}, step * law.losses_[j]);
}

// Turning on and on gathers rounding errors, so the phases are computed afresh now and then.
void TiltedLaw::Walk::set_phases() {
  const Real t = static_cast<Real>(k_) * step_;
  for (size_t j = 0; j < phases_.size(); ++j) phases_[j] = std::polar(law_.weights_[j], t * law_.losses_[j]);
}

Complex TiltedLaw::Walk::next() {
  if (k_ % kTurnsBetweenResets == 0) set_phases();
  ++k_;
  Real imaginary = 0;
  const Real real = block_sum(phases_.size(), [&, part = Real{0}](size_t j) mutable {
    const Complex p = phases_[j], u = turns_[j];
    part = j % kBlock == 0 ? p.imag() : part + p.imag();
    if (j % kBlock == kBlock - 1 || j + 1 == phases_.size()) imaginary += part;
    // Written out: the library's product of complex numbers also looks for infinities.
    phases_[j] = {p.real() * u.real() - p.imag() * u.imag(), p.real() * u.imag() + p.imag() * u.real()};
    return p.real();
  });
  return {real, imaginary};
}

}  // namespace dpfa::accounting
