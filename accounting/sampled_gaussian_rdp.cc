#include "accounting/sampled_gaussian_rdp.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/check.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kHalfLogTwoPi = 0.91893853320467274178;
constexpr double kDensity = 0.39894228040143267794;  // 1 / sqrt(2 pi)
constexpr double kReach = 9.5;                       // e^(-9.5^2 / 2) = 3e-20 of the peak
constexpr double kNegligible = 42;                   // e^-42 of the largest term
constexpr double kMostPoints = 2e5;
constexpr double kPureExcess = 53;  // where log(r / (q e^x)) times an order up to 1e6 is below 1e-17
constexpr double kLargePower = 32;  // log of a power beside which the compensation is small

// r^a - 1 - a u without cancellation around u = r - 1 = 0.
double compensated_power(double a, double u, double log_ratio) {
  if (std::abs(u) < 0.02 && std::abs(a * u) < 0.3) {
    double term = a * (a - 1) / 2 * u * u, sum = 0;
    for (int k = 2; k < 60 && std::abs(term) > 1e-18 * std::abs(sum); ++k) {
      sum += term;
      term *= (a - k) / (k + 1) * u;
    }
    return sum;
  }
  if (a > 0) return (1 + u) * std::expm1((a - 1) * log_ratio) - (a - 1) * u;
  return std::expm1(a * log_ratio) - a * u;
}

// (1+u) log(1+u) - u (remove) or u - log(1+u) (add).
double divergence_gap(double u, double log_ratio, Direction direction) {
  const bool remove = direction == Direction::kRemove;
  if (std::abs(u) >= 0.02) return remove ? (1 + u) * log_ratio - u : u - log_ratio;
  // sum_k (-u)^k / (k (k-1)) and sum_k (-u)^k / k, both from k = 2.
  double power = u * u, gap = 0;
  for (int k = 2; k < 14; ++k, power *= -u) gap += power / (remove ? k * (k - 1) : k);
  return gap;
}

// log E[r^-power] (add direction): r is at least 1 - q, and next to 0 no closer than pi sigma from the line.
double log_inverse_moment(double power, double q, double sigma) {
  constexpr double kWindow = 40;
  const double step = sigma < 0.15 ? sigma / 3 : 0.05;
  const double odds = q / (1 - q) * std::exp(-0.5 / sigma / sigma);
  const double start = -kWindow - power / sigma * odds / (1 + odds), end = 1 / sigma + kWindow;
  if (!((end - start) / step <= 4e6)) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0, gap_sum = 0, largest = -kInfinity;
  std::vector<double> logs;
  for (double i = std::floor(start / step); i * step <= end; ++i) {
    const double t = i * step, x = t / sigma - 0.5 / sigma / sigma;
    const double u = q * std::expm1(std::min(x, 700.0));
    const double log_ratio = x > 30 ? x + std::log(q + (1 - q) * std::exp(-x)) : std::log1p(u);
    logs.push_back(-power * log_ratio - t * t / 2);
    largest = std::max(largest, logs.back());
    gap_sum += x > 30 ? std::exp(std::log(power) + log_ratio - t * t / 2)
                      : compensated_power(-power, u, log_ratio) * std::exp(-t * t / 2);
  }
  for (double log : logs) sum += std::exp(log - largest);
  const double log_moment = largest + std::log(sum * step) - kHalfLogTwoPi;
  return log_moment > 0.5 ? log_moment : std::log1p(gap_sum * step * kDensity);
}

}  // namespace

SampledGaussianRdp::SampledGaussianRdp(double sample_rate, double noise_multiplier)
    : q_(sample_rate), sigma_(noise_multiplier), turned_(std::numeric_limits<size_t>::max()) {
  if (!(q_ > 0 && q_ < 1 && sigma_ > 0)) return;
  step_ = 0.45 * std::min(1.0, sigma_);
  const double log_odds = std::log1p(-q_) - std::log(q_);
  turn_ = std::max(log_odds, 1.0);
  pure_ = sigma_ * (std::max(log_odds, 0.0) + kPureExcess) + 0.5 / sigma_;
}

// False where it would take too many points.
bool SampledGaussianRdp::extend(double end) {
  const double first = std::floor(-kReach / step_);
  if (!(end / step_ - first <= kMostPoints)) return false;
  for (double i = first + static_cast<double>(points_.size()); i * step_ <= end; ++i) {
    const double t = i * step_, x = t / sigma_ - 0.5 / sigma_ / sigma_;
    Point p{t * t / 2, t, q_ * std::expm1(x), 0, 0, 0};
    p.log_ratio = x > 30 ? x + std::log(q_ + (1 - q_) * std::exp(-x)) : std::log1p(p.excess);
    p.log_excess = std::log(std::abs(p.excess));
    if (x >= turn_) {
      turned_ = std::min(turned_, points_.size());
      p.log_beyond = std::log1p((1 - q_) / q_ * std::exp(-x));
    }
    points_.push_back(p);
  }
  return true;
}

double SampledGaussianRdp::divergence() {
  const double end = 1 / sigma_ + kReach;
  if (!extend(end)) return kInfinity;
  double sum = 0;
  for (const Point& p : points_) {
    if (p.place > end) break;
    sum += p.log_ratio > 30
               ? std::exp(p.log_ratio - p.half_square) * (p.log_ratio - 1)
               : divergence_gap(p.excess, p.log_ratio, Direction::kRemove) * std::exp(-p.half_square);
  }
  return sum * step_ * kDensity;
}

// The logarithm of r^a e^(-t^2 / 2) is a log r - t^2 / 2 left of the turn, where r is mostly 1 - q, and
// K + a log(r / (q e^x)) - (t - a / s)^2 / 2 right of it, K = a log q + a (a - 1) / (2 s^2): each way without
// cancellation of large terms. Where the right peak lies wholly where r = q e^x, its integral is e^K.
double SampledGaussianRdp::log_moment(double order) {
  const double centre = order / sigma_;
  const bool with_peak = order >= 2 && centre - kReach >= pure_;
  const double end = with_peak ? pure_ : centre + kReach;
  if (!extend(end)) return kInfinity;
  const long double a = order, s = sigma_;
  const double log_peak =
      static_cast<double>(a * std::log(static_cast<long double>(q_)) + a * (a - 1) / (2 * s * s));
  const size_t count = static_cast<size_t>(end / step_ - std::floor(-kReach / step_)) + 1;
  const size_t points = std::min(points_.size(), count), turned = std::min(turned_, points);
  static thread_local std::vector<double> logs;
  logs.resize(points);
  double largest = with_peak ? log_peak : -kInfinity;
  for (size_t i = 0; i < turned; ++i) {
    logs[i] = order * points_[i].log_ratio - points_[i].half_square;
    largest = std::max(largest, logs[i]);
  }
  for (size_t i = turned; i < points; ++i) {
    const double gap = points_[i].place - centre;
    logs[i] = log_peak + (order * points_[i].log_beyond - gap * gap / 2);
    largest = std::max(largest, logs[i]);
  }
  double sum = 0;
  for (size_t i = 0; i < points; ++i) {
    if (logs[i] > largest - kNegligible) sum += std::exp(logs[i] - largest);
  }
  sum *= step_ * kDensity;
  if (with_peak) sum += std::exp(log_peak - largest);
  const double log_moment = largest + std::log(sum);
  return log_moment > 0.5 ? log_moment : log_compensated_moment(order, log_peak, points, with_peak);
}

double SampledGaussianRdp::log_compensated_moment(double order, double log_peak, size_t points,
                                                  bool with_peak) const {
  const double log_order = std::log(order), centre = order / sigma_;
  // An estimate of the logarithm of each term, good enough to leave out the smallest.
  auto estimate = [&](const Point& p) {
    return std::max(order * p.log_ratio, 0.0) + 2 * std::min(0.0, log_order + p.log_excess) - p.half_square;
  };
  double largest = -kInfinity;
  for (size_t i = 0; i < points; ++i) largest = std::max(largest, estimate(points_[i]));
  double sum = 0;
  for (size_t i = 0; i < points; ++i) {
    const Point& p = points_[i];
    if (estimate(p) < largest - kNegligible - 10) continue;
    if (p.log_ratio > 30 && (order - 1) * p.log_ratio < 30) {
      // r alone is too large beside 1 to tell r from u.
      sum += std::exp(p.log_ratio - p.half_square) * (std::expm1((order - 1) * p.log_ratio) - (order - 1));
    } else if (i >= turned_ && order * p.log_ratio > kLargePower) {
      const double gap = p.place - centre;
      sum += std::exp(log_peak + (order * p.log_beyond - gap * gap / 2)) -
             std::exp(log_order + p.log_ratio - p.half_square);
    } else {
      sum += compensated_power(order, p.excess, p.log_ratio) * std::exp(-p.half_square);
    }
  }
  sum *= step_ * kDensity;
  return std::log1p(with_peak ? sum + std::exp(log_peak) : sum);
}

double SampledGaussianRdp::operator()(double order) {
  DPFA_CHECK(order >= 1, order);
  if (q_ == 0) return 0;
  if (sigma_ == 0) return kInfinity;
  const double plain = order / 2 / sigma_ / sigma_;
  if (q_ == 1 || std::isinf(plain)) return plain;
  const double result = order == 1 ? divergence() : log_moment(order) / (order - 1);
  return std::min(result, plain);
}

double sampled_gaussian_rdp(double sample_rate, double noise_multiplier, double order, Direction direction) {
  DPFA_CHECK(order >= 1, order);
  const double q = sample_rate, sigma = noise_multiplier;
  if (direction == Direction::kRemove || q == 0) return SampledGaussianRdp(q, sigma)(order);
  const double plain = order / 2 / sigma / sigma, most = -std::log1p(-q);
  if (q == 1) return plain;
  if (sigma == 0 || std::isinf(order)) return most;
  if (order == 1) {
    // E[-log r] with the part that integrates to 0 taken out.
    constexpr double kWindow = 40;
    const double step = sigma < 0.15 ? sigma / 3 : 0.05;
    double sum = 0;
    if ((1 / sigma + 2 * kWindow) / step > 4e6) return std::min(plain, most);
    for (double i = std::floor(-kWindow / step); i * step <= 1 / sigma + kWindow; ++i) {
      const double t = i * step, x = t / sigma - 0.5 / sigma / sigma, u = q * std::expm1(x);
      sum += x > 30 ? q * std::exp(x - t * t / 2)
                    : divergence_gap(u, std::log1p(u), Direction::kAdd) * std::exp(-t * t / 2);
    }
    return std::min(sum * step * kDensity, plain);
  }
  const double result = log_inverse_moment(order - 1, q, sigma) / (order - 1);
  return std::isnan(result) ? std::min(plain, most) : std::min({result, plain, most});
}

}  // namespace dpfa::accounting
