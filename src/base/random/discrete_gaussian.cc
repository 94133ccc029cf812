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
#include "src/base/random/chacha20.h"
#include "src/base/random/cpu_dispatch.h"

namespace dpfa {
namespace {

using Real = boost::multiprecision::number<
    boost::multiprecision::cpp_bin_float<256, boost::multiprecision::digit_base_2>,
    boost::multiprecision::et_off>;

constexpr double kLargestBase = 2400;     // 2^15 rows hold every value of 2^-128 and more
constexpr int64_t kLargestFactor = 1568;  // the least base of a wider one: 2400 x 1567 / 1568
constexpr size_t kMostLevels = 4;         // 2^40 = 2400 x 771^3
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
    masses.push_back(to_integer(ldexp(Real(w / total), 127)));
    sum += masses.back();
  }
  while (masses.back() == 0) masses.pop_back();
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
    table[2 * row + 1] = static_cast<uint64_t>(border >> 64) | uint64_t{alias} << (64 - bits);
  };
  std::vector<size_t> less, rest;
  for (size_t k = 0; k < rows; ++k) {
    set(k, k, 0);
    (masses[k] < length ? less : rest).push_back(k);
  }
  while (!less.empty()) {
    const size_t row = less.back(), alias = rest.back();
    less.pop_back();
    set(row, alias, masses[row] << 1);  // the sign's bit takes no part
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

// The planted bug "sampler_early_exit": a search that ends where it has found the value.
void count_up_to(int64_t value) {
  for (int64_t k = 0; k < value; ++k) asm volatile("");
}

}  // namespace

DiscreteGaussian::DiscreteGaussian(double stddev) : weights_{1} {
  DPFA_CHECK(stddev >= kSmallest && stddev <= kLargest, "a discrete Gaussian of standard deviation ", stddev);
  // The fewest levels, and of these the least factor, that keep the base at kLargestBase or below: it is then
  // at least 1.528 sqrt(factor^2 + 1), which a test shows: 2400 (1567 / 1568)^2 is 1.5286 sqrt(1568^2 + 1).
  double variance = 1;
  for (size_t levels = 1; stddev > kLargestBase * std::sqrt(variance); ++levels) {
    DPFA_CHECK(levels < kMostLevels);
    for (int64_t factor = 1; factor <= kLargestFactor; ++factor) {
      weights_ = {1};
      variance = 1;
      for (size_t l = 0; l < levels; ++l) {
        weights_.push_back(weights_.back() * factor);
        variance += static_cast<double>(weights_.back()) * static_cast<double>(weights_.back());
      }
      if (stddev <= kLargestBase * std::sqrt(variance)) break;
    }
  }
  base_stddev_ = stddev / std::sqrt(variance) * kUp;
  stddev_ = base_stddev_ * std::sqrt(variance);
  table_ = alias_table(masses_of(base_stddev_));
}

void DiscreteGaussian::fill(const StreamKey& key, uint64_t step, uint64_t first,
                            std::span<int64_t> out) const {
  constexpr size_t kChunk = 64;  // samples: whole groups of the stream, for any number of levels
  const size_t levels = weights_.size(), words_each = 4 * levels;
  const uint64_t samples = std::numeric_limits<uint64_t>::max() / words_each;
  DPFA_CHECK(first <= samples && out.size() <= samples - first, "the stream ends at sample ", samples);
  const random_internal::Backend& backend = random_internal::active_backend();
  std::array<uint32_t, 4 * kMostLevels* kChunk> words = {};
  std::array<int64_t, kMostLevels * kChunk> draws;
  for (size_t begin = 0; begin < out.size();) {
    const size_t count = std::min<size_t>(kChunk - (first + begin) % kChunk, out.size() - begin);
    fill_words(key, step, (first + begin) * words_each, std::span(words).first(count * words_each));
    // Of a part of a chunk some words left over from the last one are drawn from too, and the draws dropped.
    backend.discrete_draws(table_.data(), std::countr_zero(rows()), words.data(),
                           (count * levels + 7) / 8 * 8, draws.data());
    if (DPFA_PLANT("sampler_early_exit"))
      for (size_t d = 0; d < count * levels; ++d) count_up_to(std::abs(draws[d]));
    if (DPFA_PLANT("discrete_level_missing") && levels > 1)
      for (size_t i = 1; i <= count; ++i) draws[i * levels - 1] = 0;
    sum_levels(weights_.data(), levels, draws.data(), out.subspan(begin, count));
    begin += count;
  }
  explicit_bzero(words.data(), sizeof(words));
  explicit_bzero(draws.data(), sizeof(draws));
}

}  // namespace dpfa
