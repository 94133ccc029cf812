#include "accounting/mechanism_rdp.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMostTerms = 20'000'000;

long double log_sum_exp(const std::vector<long double>& logs) {
  const long double largest = *std::max_element(logs.begin(), logs.end());
  if (std::isinf(largest)) return largest;
  long double sum = 0;
  for (long double log : logs) sum += std::exp(log - largest);
  return largest + std::log(sum);
}

// D_order(P(. - shift) || P) of a symmetric pmf on whole numbers, given log P(x) for 0 <= x < logs.size().
double shifted_divergence(const std::vector<long double>& logs, int64_t shift, double order) {
  const int64_t end = static_cast<int64_t>(logs.size()) - 1;
  const long double a = order;
  std::vector<long double> terms;
  for (int64_t x = shift - end; x <= end; ++x) {
    const long double p = logs[static_cast<size_t>(std::abs(x - shift))],
                      q = logs[static_cast<size_t>(std::abs(x))];
    terms.push_back(order == 1 ? 0 : a * p + (1 - a) * q);
    if (order == 1) terms.back() = std::exp(p) * (p - q);
  }
  if (order == 1) {
    long double sum = 0;
    for (long double term : terms) sum += term;
    return static_cast<double>(sum);
  }
  return static_cast<double>(log_sum_exp(terms) / (a - 1));
}

// The integrand P(x-shift)^a P(x)^(1-a) has its peak near a * shift.
int64_t terms_needed(double deviation, int64_t shift, double order) {
  const double terms = (order + 2) * static_cast<double>(shift) + 40 * deviation + 60;
  return terms <= static_cast<double>(kMostTerms) ? static_cast<int64_t>(terms) : -1;
}

void normalise(std::vector<long double>& logs) {
  std::vector<long double> all = logs;
  for (size_t x = 1; x < logs.size(); ++x) all[x] += std::log(2.0L);
  const long double total = log_sum_exp(all);
  for (long double& log : logs) log -= total;
}

// D_order of two distributions given by value lists.
double finite_divergence(const std::vector<double>& p, const std::vector<double>& q, double order) {
  double largest = 0, divergence = 0;
  std::vector<long double> terms;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) continue;
    if (q[i] == 0) return kInfinity;
    const double ratio = std::log(p[i] / q[i]);
    largest = std::max(largest, ratio);
    divergence += p[i] * ratio;
    if (!std::isinf(order)) terms.push_back(std::log(q[i]) + order * ratio);
  }
  if (std::isinf(order)) return largest;
  if (order == 1) return divergence;
  return static_cast<double>(log_sum_exp(terms)) / (order - 1);
}

}  // namespace

double laplace_rdp(double b, double order) {
  // In long double: for weak sensitivities and orders near 1 the two terms nearly cancel.
  const long double a = order, e = 1 / static_cast<long double>(b);
  if (std::isinf(order)) return 1 / b;
  if (order == 1) return static_cast<double>(e + std::expm1(-e));
  return static_cast<double>(e + std::log1p((a - 1) * std::expm1(e * (1 - 2 * a)) / (2 * a - 1)) / (a - 1));
}

double discrete_gaussian_rdp(double sigma, int64_t shift, double order) {
  if (shift == 0) return 0;
  if (std::isinf(order)) return kInfinity;
  const int64_t terms = terms_needed(sigma, std::abs(shift), order);
  if (terms < 0) return std::numeric_limits<double>::quiet_NaN();
  std::vector<long double> logs;
  for (int64_t x = 0; x <= terms; ++x) {
    const long double z = static_cast<long double>(x) / sigma;
    logs.push_back(-z * z / 2);
  }
  normalise(logs);
  return shifted_divergence(logs, std::abs(shift), order);
}

double skellam_rdp(double variance, int64_t shift, double order) {
  if (shift == 0) return 0;
  if (std::isinf(order)) return kInfinity;
  // The tails are Poisson-like, heavier than the Gaussian's.
  const int64_t needed = terms_needed(std::sqrt(variance), std::abs(shift), order);
  if (needed < 0) return std::numeric_limits<double>::quiet_NaN();
  const int64_t terms = 2 * needed + 200;
  // P(x) ~ I_x(variance); the ratios I_x / I_(x-1) by the backward recurrence, which is stable.
  std::vector<long double> ratios(static_cast<size_t>(terms) + 1, 0);
  long double ratio = 0;
  for (int64_t x = 2 * terms; x >= 1; --x) {
    ratio = 1 / (2 * static_cast<long double>(x) / variance + ratio);
    if (x <= terms) ratios[static_cast<size_t>(x)] = ratio;
  }
  std::vector<long double> logs = {0};
  for (int64_t x = 1; x <= terms; ++x) logs.push_back(logs.back() + std::log(ratios[static_cast<size_t>(x)]));
  normalise(logs);
  return shifted_divergence(logs, std::abs(shift), order);
}

double skellam_rdp_bound(double variance, double l1, double l2, double order) {
  const double gaussian = order * l2 * l2 / (2 * variance);
  return gaussian +
         std::min(((2 * order - 1) * l2 * l2 + 6 * l1) / (4 * variance * variance), 3 * l1 / (2 * variance));
}

double randomized_response_rdp(double p, double buckets, double order, bool special) {
  const double truth = 1 - p + p / buckets, other = p / buckets;
  // Buckets that neither value names have equal probabilities and are one event.
  if (!special)
    return finite_divergence({truth, other, (buckets - 2) * other}, {other, truth, (buckets - 2) * other},
                             order);
  const std::vector<double> report = {truth, (buckets - 1) * other},
                            uniform = {1 / buckets, (buckets - 1) / buckets};
  return std::max(finite_divergence(report, uniform, order), finite_divergence(uniform, report, order));
}

double exponential_mechanism_rdp(double epsilon, double order) {
  if (std::isinf(order)) return epsilon;
  const double x = epsilon / std::expm1(epsilon);
  const double xi = x - 1 - std::log(x) - epsilon * epsilon / 8;
  return std::min(xi + order * epsilon * epsilon / 8, epsilon);
}

double discrete_laplace_rdp(double parameter, int64_t shift, double order) {
  const long double a = parameter, x = a * static_cast<long double>(shift), order_l = order;
  if (std::isinf(order) || shift == 0) return static_cast<double>(x);
  // E = (1 - w) e^((order - 1) x) + w e^(-order x): outside the two centres the loss is +-x, between them it
  // grows evenly, which the geometric sum folds into the two weights.
  const long double tail = 1 / (1 + std::exp(-a)), height = std::tanh(a / 2);
  if (order == 1) {
    long double sum = tail * x - tail * std::exp(-x) * x;
    if (shift > kMostTerms) return static_cast<double>(x);
    for (int64_t i = 1; i < shift; ++i) {
      const long double i_l = static_cast<long double>(i);
      sum += height * std::exp(i_l * a - x) * (2 * i_l * a - x);
    }
    return static_cast<double>(sum);
  }
  const long double weight = tail - height / -std::expm1(-a * (2 * order_l - 1));
  return static_cast<double>(x + std::log1p(weight * std::expm1(-(2 * order_l - 1) * x)) / (order_l - 1));
}

double pure_dp_rdp(double epsilon, double order) {
  const long double e = epsilon, a = order;
  if (std::isinf(order)) return epsilon;
  if (order == 1) return static_cast<double>(e * std::tanh(e / 2));
  const long double lower = std::exp(-e) / (1 + std::exp(-e));
  return static_cast<double>(e + std::log1p(lower * std::expm1(-2 * (a - 1) * e)) / (a - 1));
}

double tree_rdp(double sigma, int64_t steps, double order) {
  return order * std::ceil(std::log2(static_cast<double>(steps) + 1)) / (2 * sigma * sigma);
}

}  // namespace dpfa::accounting
