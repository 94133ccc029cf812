// Divergences of sampled releases other than the Poisson-sampled Gaussian itself.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <boost/math/special_functions/beta.hpp>

#include "accounting/mechanism_rdp.h"
#include "accounting/rdp.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRoundUp = 1 + 1e-9;  // more than the error of the incomplete beta function
constexpr int kMostWholeOrder = 4096;  // of the binomial sum
constexpr double kMostWithoutReplacement = 65536;
constexpr double kMostBranches = 256;  // beyond it the simpler of the two bounds of the theorem alone
// The share of the variance that randomised rounding takes, and the relative error of a probability.
constexpr double kRoundingVariance = 8;
const double kRoundingError = 4.01 * std::exp(-2 * M_PI * M_PI * kRoundingVariance);

// log(1 - q + q e^x).
double log_mixture(double q, double x) {
  return x > 700 ? x + std::log(q) + std::log1p((1 - q) / q * std::exp(-x)) : std::log1p(q * std::expm1(x));
}

// log E e^(c |difference|^2).
double log_difference_moment(const PoissonSampledDiscreteGaussianEvent& e, double c) {
  const double square = e.sensitivity * e.sensitivity;
  if (e.rounded_dimension == 0) return c * square;
  return dithered_log_moment(square, static_cast<double>(e.rounded_dimension), c);
}

// log sum_k Bin(k; n, q) e^(growth of k), without what sums to 1.
double log_whole_moment(const PoissonSampledDiscreteGaussianEvent& e, int n) {
  const long double q = e.sample_rate;
  const double unit = 0.5 / e.sigma / e.sigma;
  if (e.sample_rate == 1) return log_difference_moment(e, unit * n * (n - 1.0));
  long double log_mass = n * std::log1p(-q);
  std::vector<long double> logs;
  for (int k = 1; k <= n; ++k) {
    log_mass += std::log(q) - std::log1p(-q) + std::log(static_cast<long double>(n - k + 1) / k);
    const long double growth = log_difference_moment(e, unit * k * (k - 1.0));
    if (std::isinf(growth)) return kInfinity;
    const long double log_growth =
        growth > 1 ? growth + std::log1p(-std::exp(-growth)) : std::log(std::expm1(growth));
    logs.push_back(log_mass + log_growth);
  }
  const long double largest = *std::max_element(logs.begin(), logs.end());
  long double sum = 0;
  for (long double log : logs) sum += std::exp(log - largest);
  return static_cast<double>(largest > 40 ? largest + std::log(sum) : std::log1p(std::exp(largest) * sum));
}

double whole_orders_rdp(const PoissonSampledDiscreteGaussianEvent& e, double order) {
  const double low = std::max(1.0, std::floor(order));
  if (low >= kMostWholeOrder) return kInfinity;
  const int n = static_cast<int>(low);
  const double below = n == 1 ? 0 : log_whole_moment(e, n);
  if (order == low && n > 1) return below / (order - 1);
  const double above = log_whole_moment(e, n + 1);
  return n == 1 ? above : (below + (order - low) * (above - below)) / (order - 1);
}

}  // namespace

double WithoutReplacementRdp::log_even_moment(size_t half) {
  while (even_.size() <= half)
    even_.push_back(log_even_difference_moment(sigma_, 2 * static_cast<int>(even_.size())));
  return even_[half];
}

// log E[r^a] at a whole order: 1 + sum_j q^j C(a, j) min(4 sqrt(B(2 floor(j/2)) B(2 ceil(j/2))), 2 e^((j-1)
// D_j)), for j = 2 min(4 (e^D_2 - 1), 2 e^D_2), with D_j = j / (2 s^2).
double WithoutReplacementRdp::log_moment(double whole_order) {
  if (whole_order < 2) return 0;
  if (whole_order > kMostWithoutReplacement) return kInfinity;
  const double unit = 1 / (2 * sigma_ * sigma_), log_q = std::log(q_);
  double log_binomial = std::log(whole_order / 2 * (whole_order - 1));
  const double second = std::log(2.0) + std::min(std::log(2 * std::expm1(2 * unit)), 2 * unit);
  std::vector<double> logs = {2 * log_q + log_binomial + second};
  for (double j = 3; j <= whole_order; ++j) {
    log_binomial += std::log((whole_order - j + 1) / j);
    double factor = std::log(2.0) + (j - 1) * j * unit;
    if (whole_order <= kMostBranches) {
      const size_t half = static_cast<size_t>(j / 2), other = static_cast<size_t>((j + 1) / 2);
      factor = std::min(factor, std::log(4.0) + (log_even_moment(half) + log_even_moment(other)) / 2);
    }
    logs.push_back(j * log_q + log_binomial + factor);
  }
  const double largest = *std::max_element(logs.begin(), logs.end());
  double sum = 0;
  for (double log : logs) sum += std::exp(log - largest);
  return largest > 35 ? largest + std::log(sum) : std::log1p(std::exp(largest) * sum);
}

double WithoutReplacementRdp::operator()(double order) {
  const double plain = order / (2 * sigma_ * sigma_);
  if (q_ == 0) return 0;
  if (q_ == 1 || sigma_ == 0 || std::isinf(order)) return plain;
  order = std::max(order, 2.0);
  const double low = std::floor(order), below = log_moment(low);
  const double chord = low == order ? below : below + (order - low) * (log_moment(low + 1) - below);
  return chord / (order - 1);
}

double sampled_without_replacement_rdp(double q, double sigma, double order) {
  return WithoutReplacementRdp(q, sigma)(order);
}

double replaced_sampled_gaussian_rdp(double q, double sigma, double order) {
  if (q == 0) return 0;
  const double whole = 2 * order / sigma / sigma;  // a (2)^2 / (2 s^2)
  if (q == 1 || std::isinf(order) || std::isinf(whole)) return whole;
  // 1/p = 1/2, and below order 3/2 so much more that the factor of the first term stays at 2.
  const double inverse = std::max(0.5, 2 - order);
  const double factor = order > 1.5 ? (order - inverse) / (order - 1) : 2;
  const double beyond = order > 1.5 ? (order - inverse) / (1 - inverse) : 2;
  const double triangle = factor * sampled_gaussian_rdp(q, sigma, order / inverse) +
                          sampled_gaussian_rdp(q, sigma, beyond, Direction::kAdd);
  if (order == 1) return std::min(whole, triangle);
  const double convex = log_mixture(q, (order - 1) * whole) / (order - 1);
  return std::min({whole, convex, triangle});
}

double truncation_probability(const TruncatedPoissonGaussianEvent& e) {
  const double others = static_cast<double>(e.dataset_size) - 1, full = static_cast<double>(e.max_batch);
  if (full > others) return 0;
  if (e.sample_rate == 1) return 1;
  const long double tail =
      boost::math::ibeta(static_cast<long double>(full), static_cast<long double>(others - full + 1),
                         static_cast<long double>(e.sample_rate));
  return std::min(1.0, static_cast<double>(tail) * kRoundUp);
}

double dithered_log_moment(double square, double d, double c) {
  if (DPFA_PLANT("dither_costs_nothing")) return c * square;
  return c < 2 ? c * square / (1 - c / 2) - d / 2 * std::log1p(-c / 2) : kInfinity;
}

double sampled_discrete_gaussian_rdp(const PoissonSampledDiscreteGaussianEvent& e, double order) {
  if (e.sample_rate == 0) return 0;
  if (e.sigma == 0 || std::isinf(order)) return kInfinity;
  const double whole = whole_orders_rdp(e, order);
  if (e.rounded_dimension > 0 || e.sigma < 4) return whole;
  order = std::max(order, 1.01);  // the error term has no limit at 1, and a higher order bounds a lower one
  const double noise = std::sqrt(e.sigma * e.sigma - kRoundingVariance) / e.sensitivity;
  const double error = static_cast<double>(e.dimension) * kRoundingError * (2 * order - 1) / (order - 1);
  return std::min(whole, sampled_gaussian_rdp(e.sample_rate, noise, order) + error);
}

}  // namespace dpfa::accounting
