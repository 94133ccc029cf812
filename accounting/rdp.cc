#include "accounting/rdp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <boost/math/tools/minima.hpp>

#include "src/base/check.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kHalfLogTwoPi = 0.91893853320467274178;
constexpr double kWindow = 40;  // e^(-40^2 / 2) is below any double
constexpr double kMostPoints = 4e6;
constexpr double kLargestBinomialOrder = 65536;
constexpr double kLargestFractionalOrder = 32;  // of the search: beyond it, whole orders are dense enough

struct Interval {
  double low, high;
};

// The likelihood ratio r at t = z / sigma: u = r - 1 (infinite beyond double) and log r.
struct Ratio {
  double excess, log;
};

class LikelihoodRatio {
 public:
  LikelihoodRatio(double q, double sigma) : q_(q), slope_(1 / sigma), offset_(-0.5 / sigma / sigma) {}
  Ratio at(double t) const {
    const double x = slope_ * t + offset_;
    if (x > 30) return {q_ * std::expm1(x), x + std::log(q_ + (1 - q_) * std::exp(-x))};
    const double u = q_ * std::expm1(x);
    return {u, std::log1p(u)};
  }

 private:
  double q_, slope_, offset_;
};

// r^a - 1 - a (r - 1), without cancellation around r = 1.
double compensated_power(double a, const Ratio& r) {
  const double u = r.excess;
  if (std::abs(u) < 0.02 && std::abs(a * u) < 0.3) {
    double term = a * (a - 1) / 2 * u * u, sum = 0;
    for (int k = 2; k < 60 && std::abs(term) > 1e-18 * std::abs(sum); ++k) {
      sum += term;
      term *= (a - k) / (k + 1) * u;
    }
    return sum;
  }
  if (a > 0) return (1 + u) * std::expm1((a - 1) * r.log) - (a - 1) * u;
  return std::expm1(a * r.log) - a * u;
}

// e^(-t^2/2) times the above, where r^a or r leave the range of double and t is large.
double weighted_compensated_power(double a, const Ratio& r, double t) {
  if (r.log < 30 && std::abs(a) * r.log < 300) return compensated_power(a, r) * std::exp(-t * t / 2);
  const double power = std::exp(a * r.log - t * t / 2);
  const double linear = std::exp(std::log(std::abs(a)) + r.log - t * t / 2);
  return a > 0 ? power - linear : power + linear;
}

// Where the integrand r^a e^(-t^2/2) is above e^-800 of its largest value. Its logarithm has slope
// a w(t) / sigma - t with w in (0, 1) the posterior weight of the shifted component, so for a > 0 its maxima
// lie in [0, a / sigma]; for sigma < 1 only next to the two ends. For a < 0 w(t) <= w(0) left of 0.
std::vector<Interval> windows(double a, double q, double sigma) {
  if (a < 0) {
    const double odds = q / (1 - q) * std::exp(-0.5 / sigma / sigma);
    return {{-kWindow + a / sigma * odds / (1 + odds), 1 / sigma + kWindow}};
  }
  const double end = a / sigma;
  if (sigma < 1 && end > 2 * kWindow) return {{-kWindow, kWindow}, {end - kWindow, end + kWindow}};
  return {{-kWindow, end + kWindow}};
}

// log E_N0[r^a]; a > 1 (remove) or a < 0 (add). NaN where it would take more than kMostPoints.
// The integrand is analytic within pi sigma of the real line, so the error is near e^(-2 pi^2 sigma / step).
double log_moment(double a, double q, double sigma) {
  const double step = sigma < 0.15 ? sigma / 3 : 0.05;
  const LikelihoodRatio ratio(q, sigma);
  const std::vector<Interval> parts = windows(a, q, sigma);
  double points = 0;
  for (const Interval& part : parts) points += (part.high - part.low) / step;
  if (!(points <= kMostPoints)) return std::numeric_limits<double>::quiet_NaN();

  std::vector<Ratio> values;
  std::vector<double> places;
  double largest = -kInfinity;
  for (const Interval& part : parts) {
    for (double i = std::floor(part.low / step); i * step <= part.high; ++i) {
      places.push_back(i * step);
      values.push_back(ratio.at(i * step));
      largest = std::max(largest, a * values.back().log - i * step * i * step / 2);
    }
  }
  double sum = 0;
  for (size_t i = 0; i < places.size(); ++i)
    sum += std::exp(a * values[i].log - places[i] * places[i] / 2 - largest);
  const double log_moment = largest + std::log(sum * step) - kHalfLogTwoPi;
  if (log_moment > 0.5) return log_moment;
  sum = 0;
  for (size_t i = 0; i < places.size(); ++i) sum += weighted_compensated_power(a, values[i], places[i]);
  return std::log1p(sum * step * std::exp(-kHalfLogTwoPi));
}

// E_N0[r log r] (remove) or E_N0[-log r] (add), with the part that integrates to 0 taken out.
double divergence(double q, double sigma, Direction direction) {
  const double step = sigma < 0.15 ? sigma / 3 : 0.05;
  const double end = 1 / sigma + kWindow;
  if ((end + kWindow) / step > kMostPoints) return std::numeric_limits<double>::quiet_NaN();
  const LikelihoodRatio ratio(q, sigma);
  double sum = 0;
  for (double i = std::floor(-kWindow / step); i * step <= end; ++i) {
    const double t = i * step;
    const auto [u, log] = ratio.at(t);
    double gap;
    if (std::abs(u) < 0.02) {
      // (1+u) log(1+u) - u = sum_k (-u)^k / (k (k-1)), u - log(1+u) = sum_k (-u)^k / k, both from k = 2.
      double power = u * u;
      gap = 0;
      for (int k = 2; k < 14; ++k, power *= -u)
        gap += power / (direction == Direction::kRemove ? k * (k - 1) : k);
    } else {
      gap = direction == Direction::kRemove ? (1 + u) * log - u : u - log;
    }
    if (log > 30) gap = std::exp(log - t * t / 2) * (direction == Direction::kRemove ? log - 1 : 1);
    sum += log > 30 ? gap : gap * std::exp(-t * t / 2);
  }
  return sum * step * std::exp(-kHalfLogTwoPi);
}

// log(sum_k C(n,k) q^k (1-q)^(n-k) e^((k^2-k)/(2 sigma^2))), with the sum over the binomial masses taken out.
double log_binomial_moment(int n, double q, double sigma) {
  const long double log_odds =
      std::log(static_cast<long double>(q)) - std::log1p(static_cast<long double>(-q));
  const long double unit = 0.5L / sigma / sigma;
  long double log_mass = n * std::log1p(static_cast<long double>(-q));
  std::vector<long double> logs;
  long double largest = -kInfinity;
  for (int k = 1; k <= n; ++k) {
    log_mass += log_odds + std::log(static_cast<long double>(n - k + 1) / k);
    if (k == 1) continue;
    const long double exponent = static_cast<long double>(k) * (k - 1) * unit;
    const long double growth =
        exponent > 1 ? exponent + std::log1p(-std::exp(-exponent)) : std::log(std::expm1(exponent));
    logs.push_back(log_mass + growth);
    largest = std::max(largest, logs.back());
  }
  long double sum = 0;
  for (long double log : logs) sum += std::exp(log - largest);
  const long double log_sum = largest + std::log(sum);
  return static_cast<double>(log_sum > 35 ? log_sum : std::log1p(std::exp(log_sum)));
}

double improved_epsilon(double rdp, double order, double delta) {
  if (std::isinf(order)) return rdp;
  return std::max(0.0, rdp + std::log1p(-1 / order) - std::log(delta * order) / (order - 1));
}

double improved_log_delta(double rdp, double order, double epsilon) {
  if (std::isinf(order)) return rdp <= epsilon ? -kInfinity : 0;
  return std::min(0.0, (order - 1) * (rdp - epsilon + std::log1p(-1 / order)) - std::log(order));
}

double usable(double rdp) { return rdp >= 0 ? rdp : kInfinity; }  // false for NaN too

template <typename Bound>
OrderBound search_orders(const Bound& bound) {
  const double ratio = 1.4;
  OrderBound best{kInfinity, 0};
  double best_place = 0;
  auto evaluate = [&](double place) {
    double order = 1 + std::exp(place);
    if (order > kLargestFractionalOrder) order = std::round(order);
    const double value = bound(order);
    if (value < best.value || best.order == 0) best = {value, order}, best_place = place;
    return value;
  };
  const double first = std::log(0.01), spacing = std::log(ratio);
  int worse = 0;
  for (double place = first; place < std::log(1e6) && worse < 6; place += spacing) {
    evaluate(place);
    const bool improving = best_place == place;
    worse = improving ? 0 : worse + 1;
    if (place > std::log(4096) && !improving) break;
  }
  for (double place = first - spacing; best_place == place + spacing && place > std::log(1e-6);
       place -= spacing) {
    evaluate(place);
  }
  if (std::isinf(best.value)) return best;
  const double centre = best_place;
  std::uintmax_t rounds = 24;
  boost::math::tools::brent_find_minima(evaluate, centre - spacing, centre + spacing, 14, rounds);
  return best;
}

}  // namespace

double sampled_gaussian_rdp(double sample_rate, double noise_multiplier, double order, Direction direction) {
  DPFA_CHECK(order >= 1, order);
  if (sample_rate == 0) return 0;
  if (noise_multiplier == 0) return direction == Direction::kAdd ? -std::log1p(-sample_rate) : kInfinity;
  const double plain = order / 2 / noise_multiplier / noise_multiplier;
  if (sample_rate == 1) return plain;
  if (std::isinf(order)) return direction == Direction::kAdd ? -std::log1p(-sample_rate) : kInfinity;
  double result;
  if (order == 1) {
    result = divergence(sample_rate, noise_multiplier, direction);
  } else if (direction == Direction::kAdd) {
    result = log_moment(1 - order, sample_rate, noise_multiplier) / (order - 1);
  } else if (order == std::floor(order) && order <= kLargestBinomialOrder) {
    result = log_binomial_moment(static_cast<int>(order), sample_rate, noise_multiplier) / (order - 1);
  } else {
    result = log_moment(order, sample_rate, noise_multiplier) / (order - 1);
  }
  // Sampling never adds to the divergence (it is quasi-convex), so the plain Gaussian bounds what cannot be
  // computed, and what the rounding of huge terms lifts above it.
  return std::isnan(result) ? plain : std::min(result, plain);
}

double epsilon_from_rdp(double rdp, double order, double delta) {
  rdp = usable(rdp);
  if (delta * delta + std::expm1(-rdp) > 0) return 0;
  return order > 1 ? improved_epsilon(rdp, order, delta) : kInfinity;
}

double log_delta_from_rdp(double rdp, double order, double epsilon) {
  rdp = usable(rdp);
  const double total_variation = std::log(-std::expm1(-rdp)) / 2;
  return order > 1 ? std::min(total_variation, improved_log_delta(rdp, order, epsilon)) : total_variation;
}

OrderBound best_epsilon(const RdpCurve& curve, double delta) {
  if (epsilon_from_rdp(curve(1), 1, delta) == 0) return {0, 1};
  return search_orders([&](double order) { return improved_epsilon(usable(curve(order)), order, delta); });
}

OrderBound best_log_delta(const RdpCurve& curve, double epsilon) {
  const OrderBound first{log_delta_from_rdp(curve(1), 1, epsilon), 1};
  const OrderBound best =
      search_orders([&](double order) { return improved_log_delta(usable(curve(order)), order, epsilon); });
  return first.value < best.value ? first : best;
}

OrderBound best_epsilon(const RdpCurve& curve, std::span<const double> orders, double delta) {
  OrderBound best{kInfinity, 0};
  for (double order : orders) {
    const double value = epsilon_from_rdp(curve(order), order, delta);
    if (value < best.value) best = {value, order};
  }
  return best;
}

OrderBound best_log_delta(const RdpCurve& curve, std::span<const double> orders, double epsilon) {
  OrderBound best{0, 0};
  for (double order : orders) {
    const double value = log_delta_from_rdp(curve(order), order, epsilon);
    if (value < best.value) best = {value, order};
  }
  return best;
}

double log_even_difference_moment(double noise_multiplier, int power) {
  DPFA_CHECK(power > 0 && power % 2 == 0, power);
  const double step = noise_multiplier < 0.15 ? noise_multiplier / 3 : 0.05;
  const double end = power / noise_multiplier + kWindow;
  std::vector<double> logs;
  for (double i = std::floor(-kWindow / step); i * step <= end; ++i) {
    const double t = i * step;
    const double x = t / noise_multiplier - 0.5 / noise_multiplier / noise_multiplier;
    const double log_gap = x > 1 ? x + std::log1p(-std::exp(-x)) : std::log(std::abs(std::expm1(x)));
    logs.push_back(power * log_gap - t * t / 2);
  }
  const double largest = *std::max_element(logs.begin(), logs.end());
  double sum = 0;
  for (double log : logs) sum += std::exp(log - largest);
  return largest + std::log(sum * step) - kHalfLogTwoPi;
}

}  // namespace dpfa::accounting
