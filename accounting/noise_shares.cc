#include "accounting/noise_shares.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/mechanism_rdp.h"
#include "accounting/schedule.h"
#include "src/base/plant.h"
#include "src/base/random/discrete_gaussian.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kDown = 1 - 1e-14, kUp = 1 + 1e-14;  // more than the rounding of a few operations
// 2 e / (1 - e) for e = 2.0001 exp(-2 pi^2 r^2), r^2 >= 8.
constexpr double kTheta = 4.01;
constexpr double kRoundingVariance = 8;  // r^2 of the randomised rounding
const double kRoundingLogRatio = kTheta * std::exp(-2 * M_PI * M_PI * kRoundingVariance);
const double kLogFailure = -100 * M_LN2;

double honest_shares(const NoiseSharesEvent& e) {
  return static_cast<double>(DPFA_PLANT("colluders_noise_counted") ? e.ranks : e.ranks - e.colluding_ranks);
}

PoissonSampledDiscreteGaussianEvent single_source(const NoiseSharesEvent& e) {
  return {e.sample_rate, remaining_sigma(e), e.sensitivity, e.rounded_dimension, e.dimension, e.relation};
}

// One discrete Gaussian is one share.
NoiseSharesEvent one_share(const PoissonSampledDiscreteGaussianEvent& e) {
  return {e.sample_rate, e.sigma, 1, 0, e.sensitivity, e.rounded_dimension, e.dimension, e.relation};
}

void add(const NoiseSharesEvent& e, double count, Allowance& allowance) {
  allowance.failure += count * dither_radius(e.sensitivity, e.rounded_dimension).failure;
  allowance.log_ratio +=
      count * static_cast<double>(e.dimension) * (kRoundingLogRatio + share_log_ratio(e)) * kUp;
}

}  // namespace

double remaining_sigma(const NoiseSharesEvent& e) {
  return e.share_sigma * std::sqrt(honest_shares(e)) * kDown;
}

double share_log_ratio(const NoiseSharesEvent& e) {
  return kTheta * (honest_shares(e) - 1) * std::exp(-M_PI * M_PI * e.share_sigma * e.share_sigma) * kUp;
}

DitherRadius dither_radius(double sensitivity, int64_t rounded_dimension) {
  if (rounded_dimension == 0) return {sensitivity, 0};
  const double d = static_cast<double>(rounded_dimension), square = sensitivity * sensitivity;
  const double certain = (sensitivity + std::sqrt(d)) * kUp;
  // Where the derivative of the bound's expansion to second order in c vanishes; every c gives a bound.
  const double near = std::sqrt(-kLogFailure / (square / 2 + d / 16));
  double least = kInfinity;
  for (double c = std::min(near, 1.0) / 16; c <= std::min(16 * near, 1.9); c *= 1.01)
    least = std::min(least, (dithered_log_moment(square, d, c) - kLogFailure) / c);
  const double likely = std::sqrt(least) * kUp;
  return likely < certain ? DitherRadius{likely, std::exp(kLogFailure)} : DitherRadius{certain, 0};
}

double noise_shares_rdp(const NoiseSharesEvent& e, double order) {
  if (e.sample_rate == 0) return 0;
  const double ideal = sampled_discrete_gaussian_rdp(single_source(e), order);
  if (std::isinf(order) || honest_shares(e) == 1) return ideal;
  const double a =
      std::max(order, 1.01);  // the term has no limit at 1, and a higher order bounds a lower one
  const double error = static_cast<double>(e.dimension) * share_log_ratio(e) * (2 * a - 1) / (a - 1);
  return (order < a ? sampled_discrete_gaussian_rdp(single_source(e), a) : ideal) + error;
}

double dominating_noise_multiplier(const NoiseSharesEvent& e) {
  const double sigma = remaining_sigma(e);
  return std::sqrt(sigma * sigma - kRoundingVariance) /
         dither_radius(e.sensitivity, e.rounded_dimension).radius * kDown;
}

double Allowance::sampler_delta(double epsilon, double shift) const {
  return chi_square / shift * (1 + std::exp(epsilon));
}

Allowance allowance_of(const Schedule& schedule) {
  Allowance allowance;
  double samples = 0;
  for (const Charge& part : schedule.parts) {
    const double count = static_cast<double>(part.count);
    if (const auto* shares = std::get_if<NoiseSharesEvent>(&part.event)) {
      add(*shares, count, allowance);
      samples += count * static_cast<double>(shares->dimension) * honest_shares(*shares);
    }
    // An event of one ideal source: how it is drawn is not its matter.
    const auto* discrete = std::get_if<PoissonSampledDiscreteGaussianEvent>(&part.event);
    if (discrete != nullptr && discrete->sigma >= kSmallestShare) add(one_share(*discrete), count, allowance);
  }
  allowance.chi_square = std::expm1(samples * DiscreteGaussian::kChiSquare) * kUp;
  return allowance;
}

}  // namespace dpfa::accounting
