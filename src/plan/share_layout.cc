#include "src/plan/share_layout.h"

#include <cmath>
#include <string>

#include "accounting/calibrate.h"
#include "src/base/error.h"
#include "src/base/plant.h"
#include "src/plan/value.h"

namespace dpfa::plan {
namespace {

constexpr int kFinestDithered = 20;  // d / (4 D'^2) is 3e-5 at 1.2e8 parameters and 2e-3 at 7e9

// Room for one rank's sum in one coordinate, in lane units; negative: not even for the noise.
double room_of(const AggregationConfig& aggregation, int64_t parameters, double share_sigma) {
  const double ranks = static_cast<double>(aggregation.ranks);
  const double kappa =
      std::sqrt(2 * std::log(2 * static_cast<double>(parameters) / aggregation.overflow_probability));
  const double range = std::ldexp(1.0, static_cast<int>(aggregation.lane_bits) - 1) - 1;
  return std::floor((range - kappa * share_sigma * std::sqrt(ranks)) / ranks);
}

bool fits(const ShareLayout& layout, const PrivacyConfig& privacy, const AggregationConfig& aggregation) {
  return static_cast<double>(layout.share.clamp) >=
         std::ldexp(aggregation.clamp_norms * privacy.max_grad_norm, -layout.lane_exponent);
}

}  // namespace

ShareLayout share_layout_on(int grid_bits, const PrivacyConfig& privacy, const AggregationConfig& aggregation,
                            int64_t parameters, double noise_multiplier) {
  ShareLayout layout;
  const int norm_exponent = std::ilogb(privacy.max_grad_norm);
  const bool dithered = privacy.numerics == "fp32";
  layout.grid_bits = grid_bits;
  layout.lane_exponent = norm_exponent - grid_bits;
  layout.contribution_exponent = dithered ? norm_exponent - kContributionGridBits : layout.lane_exponent;
  layout.slack = contribution_slack(privacy, parameters, layout.contribution_exponent);
  layout.sensitivity = std::ldexp(privacy.max_grad_norm * (1 + layout.slack), -layout.lane_exponent);
  const int64_t honest =
      DPFA_PLANT("share_of_all_ranks") ? aggregation.ranks : aggregation.ranks - aggregation.colluding_ranks;
  layout.share.share_sigma = noise_multiplier * layout.sensitivity / std::sqrt(static_cast<double>(honest));
  layout.share.dither_shift = layout.lane_exponent - layout.contribution_exponent;
  layout.rounded_dimension = layout.share.dither_shift > 0 ? parameters : 0;
  const double room = room_of(aggregation, parameters, layout.share.share_sigma);
  layout.share.clamp = room > 0 ? static_cast<int64_t>(room) : 0;
  return layout;
}

double contribution_slack(const PrivacyConfig& privacy, int64_t parameters, int contribution_exponent) {
  const double rounding = std::sqrt(static_cast<double>(parameters)) / 2 *
                          (std::ldexp(1.0, contribution_exponent) / privacy.max_grad_norm);
  const double numerics = privacy.numerics == "fp32" ? std::ldexp(1.0, -8) : 0.0;
  return rounding + std::ldexp(1.0, -20) + numerics;
}

ShareLayout share_layout(const PrivacyConfig& privacy, const AggregationConfig& aggregation,
                         int64_t parameters, double noise_multiplier) {
  const int given = static_cast<int>(aggregation.grid_bits);
  const int finest = privacy.numerics == "fp32" ? kFinestDithered : kContributionGridBits;
  if (given < 0 || given > kContributionGridBits)
    throw ConfigError("aggregation.grid_bits = " + std::to_string(given) + ": expected 0 (chosen) to 22");
  for (int bits = given > 0 ? given : finest; bits >= 1; --bits) {
    const ShareLayout layout = share_layout_on(bits, privacy, aggregation, parameters, noise_multiplier);
    if (fits(layout, privacy, aggregation)) return layout;
    if (given > 0) break;
  }
  throw ConfigError("aggregation.lane_bits = " + std::to_string(aggregation.lane_bits) +
                    (given > 0 ? " with grid_bits = " + std::to_string(given) : "") +
                    " hold no noise of multiplier " + format_real(noise_multiplier) + " on " +
                    std::to_string(aggregation.ranks) + " ranks beside sums of " +
                    format_real(aggregation.clamp_norms) +
                    " x max_grad_norm: take more lane_bits, fewer grid_bits or a smaller clamp_norms");
}

accounting::NoiseSharesEvent share_event(const ShareLayout& layout, const AggregationConfig& aggregation,
                                         int64_t parameters, double sample_rate) {
  return {sample_rate,        layout.share.share_sigma, aggregation.ranks, aggregation.colluding_ranks,
          layout.sensitivity, layout.rounded_dimension, parameters};
}

double calibrated_shares(const PrivacyConfig& privacy, AggregationConfig& aggregation, int64_t parameters,
                         double sample_rate, int64_t steps) {
  const bool chosen = aggregation.grid_bits == 0;
  const double near =
      accounting::noise_multiplier_for(*privacy.target_epsilon, privacy.target_delta, sample_rate, steps);
  int bits = share_layout(privacy, aggregation, parameters, near).grid_bits;
  for (;; --bits) {
    const double noise = accounting::noise_multiplier_for(
        *privacy.target_epsilon, privacy.target_delta, [&](double candidate) {
          const auto event = share_event(share_layout_on(bits, privacy, aggregation, parameters, candidate),
                                         aggregation, parameters, sample_rate);
          const bool bounded = event.share_sigma >= accounting::kSmallestShare;
          // Shares too narrow for a bound cost everything.
          return std::vector<accounting::Charge>{
              {bounded ? accounting::Event(event) : accounting::GaussianEvent{0}, steps}};
        });
    const ShareLayout layout = share_layout_on(bits, privacy, aggregation, parameters, noise);
    if (!fits(layout, privacy, aggregation) && chosen && bits > 1) continue;
    aggregation.grid_bits = bits;
    share_layout(privacy, aggregation, parameters, noise);  // says why where even this grid has no room
    return noise;
  }
}

void check_aggregation(const PrivacyConfig& privacy, const AggregationConfig& aggregation) {
  const bool masked = aggregation.mode == "masked", shares = aggregation.noise == "shares";
  const std::string colluding =
      "aggregation.colluding_ranks = " + std::to_string(aggregation.colluding_ranks);
  if (!masked && aggregation.mode != "plaintext")
    throw ConfigError("aggregation.mode = " + aggregation.mode + ": expected plaintext or masked");
  if (!shares && aggregation.noise != "after_sum")
    throw ConfigError("aggregation.noise = " + aggregation.noise + ": expected after_sum or shares");
  if (!privacy.enabled && (masked || shares))
    throw Unsupported(
        "privacy.enabled = false sums floating-point gradients, which neither masks nor shares of noise "
        "protect: use aggregation.mode = plaintext and aggregation.noise = after_sum");
  if (!shares && aggregation.colluding_ranks != 0)
    throw Unsupported(colluding + " with noise = after_sum: every rank knows the noise and so the sum " +
                      "without it, masked or not; use noise = shares, or colluding_ranks = 0");
  if (!shares) return;
  if (aggregation.colluding_ranks > 0 && !masked)
    throw Unsupported(colluding +
                      " with mode = plaintext: ranks see each other's partial sums, which hold "
                      "less than the whole noise; use mode = masked, or colluding_ranks = 0");
  if (privacy.generator != "chacha20")
    throw Unsupported("privacy.generator = " + privacy.generator +
                      " with noise = shares: the discrete Gaussian is drawn from chacha20 only");
  if (aggregation.ranks < 1)
    throw ConfigError("aggregation.ranks is missing: with noise = shares the plan needs the number of ranks");
  if (aggregation.colluding_ranks < 0 || aggregation.colluding_ranks >= aggregation.ranks)
    throw Unsupported(colluding + " of " + std::to_string(aggregation.ranks) +
                      " ranks: nothing hides a record from all who hold a share; expected at most ranks - 1");
  if (aggregation.lane_bits != 16 && aggregation.lane_bits != 21 && aggregation.lane_bits != 32)
    throw ConfigError("aggregation.lane_bits = " + std::to_string(aggregation.lane_bits) +
                      ": expected 16, 21 or 32");
  if (!(aggregation.overflow_probability > 0 && aggregation.overflow_probability <= 1e-6))
    throw ConfigError("aggregation.overflow_probability = " + format_real(aggregation.overflow_probability) +
                      ": expected a number in (0, 1e-6]");
  if (!(aggregation.clamp_norms > 0 && aggregation.clamp_norms <= 1e6))
    throw ConfigError("aggregation.clamp_norms = " + format_real(aggregation.clamp_norms) +
                      ": expected a number in (0, 1e6]");
}

}  // namespace dpfa::plan
