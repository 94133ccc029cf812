#include "accounting/lower_bound.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <boost/math/tools/minima.hpp>

#include "accounting/normal_distribution.h"

namespace dpfa::accounting {
namespace {

constexpr double kSpread = 13;  // standard deviations kept; outside (Bernstein) lies less than e^-80
constexpr double kMostTerms = 2e7;
constexpr size_t kMostBlocks = 4096;
constexpr double kRoundDown = 1e-9;  // more than the accumulated rounding of everything below

struct Block {
  double participations;  // the smallest of the block, so that the sum's law only moves down
  double mass;
};

// Bin(k; steps, q) around its mean by the ratio of neighbours, gathered into at most kMostBlocks blocks.
std::vector<Block> binomial_blocks(double q, double steps) {
  const double mean = q * steps, deviation = std::sqrt(mean * (1 - q));
  const double low = std::max(0.0, std::floor(mean - kSpread * deviation - 100));
  const double high = std::min(steps, std::ceil(mean + kSpread * deviation + 100));
  if (high - low > kMostTerms) return {};
  const size_t terms = static_cast<size_t>(high - low) + 1;
  const double mode = std::clamp(std::floor(mean + q), low, high);
  const double odds = q / (1 - q);
  std::vector<double> masses(terms);
  masses[static_cast<size_t>(mode - low)] = 1;
  double mass = 1, total = 1;
  for (double k = mode; k < high; ++k) {
    total += mass *= (steps - k) / (k + 1) * odds;
    masses[static_cast<size_t>(k + 1 - low)] = mass;
  }
  mass = 1;
  for (double k = mode; k > low; --k) {
    total += mass *= k / (steps - k + 1) / odds;
    masses[static_cast<size_t>(k - 1 - low)] = mass;
  }
  const size_t width = (terms + kMostBlocks - 1) / kMostBlocks;
  std::vector<Block> blocks;
  for (size_t first = 0; first < terms; first += width) {
    double gathered = 0;
    for (size_t i = first; i < std::min(terms, first + width); ++i) gathered += masses[i];
    blocks.push_back({low + static_cast<double>(first), gathered / total * (1 - kRoundDown)});
  }
  return blocks;
}

}  // namespace

double sum_epsilon_lower_bound(double sample_rate, double noise_multiplier, int64_t steps, double delta) {
  if (sample_rate <= 0 || sample_rate >= 1 || noise_multiplier <= 0 || steps <= 0) return 0;
  const double count = static_cast<double>(steps);
  const std::vector<Block> blocks = binomial_blocks(sample_rate, count);
  const double deviation = std::sqrt(count) * noise_multiplier;
  auto bound_at = [&](double threshold) {
    double with_record = 0;
    for (const Block& block : blocks) {
      with_record += block.mass * std::erfc((threshold - block.participations) / deviation * M_SQRT1_2) / 2;
    }
    if (!(with_record > delta)) return 0.0;
    return std::log(with_record - delta) - static_cast<double>(log_normal_cdf(-threshold / deviation));
  };
  const double mean = count * sample_rate;
  const double spread = std::hypot(deviation, std::sqrt(mean * (1 - sample_rate))) * 12 + 50;
  constexpr int kPlaces = 64;
  double best = 0, best_place = mean;
  for (int i = 0; i <= kPlaces; ++i) {
    const double place = mean + spread * (2.0 * i / kPlaces - 1);
    if (const double bound = bound_at(place); bound > best) best = bound, best_place = place;
  }
  const double spacing = 2 * spread / kPlaces;
  std::uintmax_t rounds = 40;
  const auto refined = boost::math::tools::brent_find_minima(
      [&](double place) { return -bound_at(place); }, best_place - spacing, best_place + spacing, 20, rounds);
  return std::max(0.0, std::max(best, -refined.second) * (1 - kRoundDown) - kRoundDown);
}

}  // namespace dpfa::accounting
