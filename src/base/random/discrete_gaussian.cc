#include "src/base/random/discrete_gaussian.h"

#include <string.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <boost/multiprecision/cpp_int.hpp>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/plant.h"
#include "src/base/random/alias_draw.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/cpu_dispatch.h"

namespace dpfa {
namespace {

using Real = boost::multiprecision::number<
    boost::multiprecision::cpp_bin_float<256, boost::multiprecision::digit_base_2>,
    boost::multiprecision::et_off>;

constexpr double kLargestBase = 2400;     // 2^15 rows hold every value of 2^-128 and more
constexpr int64_t kLargestFactor = 1568;  // 2400 = 1.5306 x 1568
constexpr double kBaseOfFactor = 1.5285;  // least s0 / sqrt(B^2 + 1)
constexpr size_t kMostLevels = 4;
constexpr Uint128 kOne = Uint128{1} << 127;
// Rounding up covers the rounding of the square root and the quotient below.
constexpr double kUp = 1 + 0x1p-40;

// The integer nearest to x in [0, 2^127].
Uint128 to_integer(const Real& x) {
  using boost::multiprecision::cpp_int;
  const auto rounded = floor(x + 0.5).convert_to<cpp_int>();
  const cpp_int high = rounded >> 64, low = rounded & ~uint64_t{0};
  return static_cast<Uint128>(high.convert_to<uint64_t>()) << 64 | low.convert_to<uint64_t>();
}

// P(|x| = k) in units of 2^-127, up to the last k that has any; their sum is 2^127.
std::vector<Uint128> masses_of(double stddev) {
  // exp(-k^2 / (2 s^2)) below 2^-140 changes neither the sum nor a mass.
  const auto last = static_cast<int64_t>(std::ceil(stddev * std::sqrt(2 * 140 * std::log(2.0))));
  const Real variance = Real(stddev) * Real(stddev), step = exp(-1 / variance);
  std::vector<Real> weights = {1};
  Real weight = 2, ratio = exp(-1 / (2 * variance)), total = 1;  // ratio: of the next weight to this one
  for (int64_t k = 1; k <= last; ++k) {
    weight *= ratio;
    ratio *= step;
    total += weight;
    weights.push_back(weight);
  }
  std::vector<Uint128> masses;
  Uint128 sum = 0;
  for (const Real& w : weights) {
    const Uint128 mass = to_integer(ldexp(Real(w / total), 127));
    if (mass == 0) break;
    masses.push_back(mass);
    sum += mass;
  }
  masses[0] += kOne - sum;  // at most half a unit for each k: nothing beside it
  return masses;
}

// Walker's table: every row is an interval of u of one length; the values with less mass than that get a row
// of their own, the rest of which goes to a value with more.
std::vector<uint64_t> alias_table(std::vector<Uint128> masses) {
  const size_t rows = std::bit_ceil(masses.size());
  const int bits = std::countr_zero(rows);
  masses.resize(rows);
  const Uint128 length = kOne >> bits;
  std::vector<uint64_t> table(2 * rows);
  const auto set = [&](size_t row, size_t alias, Uint128 border) {
    table[2 * row] = static_cast<uint64_t>(border);
    table[2 * row + 1] = static_cast<uint64_t>(border >> 64) << 1 | uint64_t{alias} << (64 - bits);
  };
  std::vector<size_t> less, rest;
  for (size_t k = 0; k < rows; ++k) {
    set(k, k, 0);
    (masses[k] < length ? less : rest).push_back(k);
  }
  while (!less.empty()) {
    const size_t row = less.back(), alias = rest.back();
    less.pop_back();
    set(row, alias, masses[row]);
    masses[alias] -= length - masses[row];
    if (masses[alias] >= length) continue;
    rest.pop_back();
    less.push_back(alias);
  }
  return table;
}

// out[i] = sum over l of weights[l] draws[i levels + l].
DPFA_CLONES void sum_levels(const int64_t* weights, size_t levels, const int64_t* draws,
                            std::span<int64_t> out) {
  if (levels == 2) {  // the shares of nearly every run
    const int64_t weight = weights[1];
    for (size_t i = 0; i < out.size(); ++i) out[i] = draws[2 * i] + weight * draws[2 * i + 1];
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = 0;
    for (size_t l = 0; l < levels; ++l) out[i] += weights[l] * draws[i * levels + l];
  }
}

// 1, factor, ..., factor^levels.
std::vector<int64_t> weights_of(int64_t factor, size_t levels) {
  std::vector<int64_t> weights = {1};
  for (size_t l = 0; l < levels; ++l) weights.push_back(weights.back() * factor);
  return weights;
}

double squares_of(const std::vector<int64_t>& weights) {
  double sum = 0;
  for (const int64_t weight : weights) sum += static_cast<double>(weight) * static_cast<double>(weight);
  return sum;
}

// The planted bug "sampler_early_exit": a search that ends where it has found the value.
void count_up_to(int64_t value) {
  for (int64_t k = 0; k < value; ++k) asm volatile("");
}

}  // namespace

DiscreteGaussian::DiscreteGaussian(double stddev) : weights_{1} {
  DPFA_CHECK(stddev >= kSmallest && stddev <= kLargest, "a discrete Gaussian of standard deviation ", stddev);
  // The fewest levels that keep the base at kLargestBase or below, and of these the largest factor that it
  // may have: the smallest table.
  double variance = 1;
  for (size_t levels = 1; stddev > kLargestBase * std::sqrt(variance); ++levels) {
    DPFA_CHECK(levels < kMostLevels);
    for (int64_t factor = 1; factor <= kLargestFactor; ++factor) {
      const std::vector<int64_t> weights = weights_of(factor, levels);
      const double base = stddev / std::sqrt(squares_of(weights));
      if (base < kBaseOfFactor * std::sqrt(static_cast<double>(factor * factor + 1))) break;
      weights_ = weights;
    }
    variance = squares_of(weights_);
  }
  base_stddev_ = stddev / std::sqrt(variance) * kUp;
  stddev_ = base_stddev_ * std::sqrt(variance);
  table_ = alias_table(masses_of(base_stddev_));
}

void DiscreteGaussian::fill(const StreamKey& key, uint64_t step, uint64_t first,
                            std::span<int64_t> out) const {
  random_internal::fill_samples(weights_, table_, key, step, first, out);
}

void random_internal::fill_samples(std::span<const int64_t> weights, std::span<const uint64_t> table,
                                   const StreamKey& key, uint64_t step, uint64_t first,
                                   std::span<int64_t> out) {
  constexpr size_t kMostGroups = 16;  // at a time: their words are whole groups of the cipher's blocks
  const size_t levels = weights.size(), group_words = 16 * group_blocks(levels);
  const int bits = std::countr_zero(table.size() / 2);
  DPFA_CHECK(levels >= 1 && levels <= kMostLevels && bits >= 1);
  const uint64_t samples = std::numeric_limits<uint64_t>::max() / group_words * kGroupSamples;
  DPFA_CHECK(first <= samples && out.size() <= samples - first, "the stream ends at sample ", samples);
  const Backend& backend = active_backend();
  std::array<uint32_t, kMostGroups * 16 * group_blocks(kMostLevels)> words;
  std::array<int64_t, kGroupSamples * kMostLevels> draws;
  // Draws are made eight at a time; those behind the last one that is wanted are of the same group.
  const auto draws_of = [&](size_t wanted) { return (wanted * levels + 7) / 8 * 8; };
  size_t used = 0;
  while (!out.empty()) {
    const size_t skipped = first % kGroupSamples;  // samples of the first group before the first one wanted
    const size_t end = std::min<size_t>(skipped + out.size(),
                                        (kMostGroups - first / kGroupSamples % kMostGroups) * kGroupSamples);
    const size_t whole = (end - 1) / kGroupSamples;  // groups before the last one
    const size_t count = whole * group_words + 16 * blocks_before_high_words(levels) +
                         2 * draws_of(end - whole * kGroupSamples);
    used = std::max(used, count);
    fill_words(key, step, first / kGroupSamples * group_words, std::span(words).first(count));
    for (size_t g = 0; g <= whole; ++g) {
      const uint32_t* group = words.data() + g * group_words;
      const size_t begin = g == 0 ? skipped : 0,
                   stop = std::min<size_t>(end - g * kGroupSamples, kGroupSamples);
      if (DPFA_PLANT("shared_bits_reused") && g > 0)
        std::copy_n(words.begin(), 2, words.begin() + g * group_words);
      backend.discrete_draws(table.data(), bits, group, levels, draws_of(stop), draws.data());
      if (DPFA_PLANT("sampler_early_exit"))
        for (size_t d = 0; d < stop * levels; ++d) count_up_to(std::abs(draws[d]));
      if (DPFA_PLANT("discrete_level_missing") && levels > 1)
        for (size_t i = 1; i <= stop; ++i) draws[i * levels - 1] = 0;
      sum_levels(weights.data(), levels, draws.data() + begin * levels, out.first(stop - begin));
      out = out.subspan(stop - begin);
      first += stop - begin;
    }
  }
  explicit_bzero(words.data(), used * sizeof(uint32_t));
  explicit_bzero(draws.data(), sizeof(draws));
}

}  // namespace dpfa
