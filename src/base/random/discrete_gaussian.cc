#include "src/base/random/discrete_gaussian.h"

#include <algorithm>
#include <bit>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <boost/multiprecision/cpp_int.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "src/base/check.h"
#include "src/base/plant.h"
#include "src/base/random/chacha20.h"

namespace dpfa {
namespace {

using Real = boost::multiprecision::number<
    boost::multiprecision::cpp_bin_float<256, boost::multiprecision::digit_base_2>,
    boost::multiprecision::et_off>;

static_assert(std::endian::native == std::endian::little);  // words become 128-bit numbers in place

constexpr double kSmallestBase = 24.5;  // 1.528 sqrt(16^2 + 1)
constexpr int64_t kLargestFactor = 16;
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

std::vector<Uint128> thresholds_of(double stddev) {
  // exp(-k^2 / (2 s^2)) below 2^-140 changes neither the sum nor a threshold.
  const auto last = static_cast<int64_t>(std::ceil(stddev * std::sqrt(2 * 140 * std::log(2.0))));
  const Real two_variances = 2 * Real(stddev) * Real(stddev);
  std::vector<Real> at_most;  // weights of |x| <= k
  for (int64_t k = 0; k <= last; ++k) {
    const Real weight = exp(-Real(k) * Real(k) / two_variances);
    at_most.push_back(k == 0 ? weight : at_most.back() + 2 * weight);
  }
  std::vector<Uint128> result;
  for (const Real& sum : at_most) {
    const Uint128 threshold = to_integer(ldexp(Real(sum / at_most.back()), 127));
    if (threshold >= kOne) break;
    result.push_back(threshold);
  }
  size_t size = 1;
  while (size - 1 < result.size()) size *= 2;
  result.resize(size - 1, kOne);
  return result;
}

constexpr size_t kLanes = 16;  // searches that run beside each other, to hide the latency of a step

// counts[l]: how many thresholds are <= u[l]: the same steps for every u (a select, no branch).
void search(const std::vector<Uint128>& thresholds, const Uint128* u, int64_t* counts) {
  std::fill_n(counts, kLanes, 0);  // all thresholds before it are <= u
  for (size_t half = (thresholds.size() + 1) / 2; half > 0; half /= 2)
    for (size_t l = 0; l < kLanes; ++l)
      counts[l] += static_cast<int64_t>(half) &
                   -static_cast<int64_t>(thresholds[static_cast<size_t>(counts[l]) + half - 1] <= u[l]);
}

}  // namespace

DiscreteGaussian::DiscreteGaussian(double stddev) : weights_{1} {
  DPFA_CHECK(stddev >= kSmallest && stddev <= kLargest, "a discrete Gaussian of standard deviation ", stddev);
  // As many and as large factors as leave the base at kSmallestBase or more.
  double variance = 1;
  for (bool full = true; full;) {
    int64_t factor = 0;
    const auto weight = [&](int64_t f) { return static_cast<double>(f * weights_.back()); };
    const auto fits = [&](int64_t f) {
      return stddev >= kSmallestBase * std::sqrt(variance + weight(f) * weight(f));
    };
    while (factor < kLargestFactor && fits(factor + 1)) ++factor;
    full = factor == kLargestFactor;
    if (factor == 0) break;
    variance += weight(factor) * weight(factor);
    weights_.push_back(factor * weights_.back());
  }
  base_stddev_ = stddev / std::sqrt(variance) * kUp;
  stddev_ = base_stddev_ * std::sqrt(variance);
  thresholds_ = thresholds_of(base_stddev_);
}

void DiscreteGaussian::fill(const StreamKey& key, uint64_t step, uint64_t first,
                            std::span<int64_t> out) const {
  constexpr size_t kChunk = 64;  // samples, a multiple of kLanes
  const size_t levels = weights_.size(), words_each = 4 * levels;
  const uint64_t samples = std::numeric_limits<uint64_t>::max() / words_each;
  DPFA_CHECK(first <= samples && out.size() <= samples - first, "the stream ends at sample ", samples);
  std::vector<uint32_t> words(kChunk * words_each);
  std::vector<int64_t> draws(kChunk * levels);
  for (size_t begin = 0; begin < out.size(); begin += kChunk) {
    const size_t count = std::min(kChunk, out.size() - begin);
    fill_words(key, step, (first + begin) * words_each, std::span(words).first(count * words_each));
    // Of a part of a chunk the words left over from the last one are searched too and their draws dropped.
    for (size_t draw = 0; draw < count * levels; draw += kLanes) {
      Uint128 bits[kLanes], u[kLanes];
      std::memcpy(bits, words.data() + 4 * draw, sizeof(bits));
      for (size_t l = 0; l < kLanes; ++l) u[l] = bits[l] >> 1;
      search(thresholds_, u, draws.data() + draw);
      for (size_t l = 0; l < kLanes; ++l) {
        const int64_t sign = -static_cast<int64_t>(bits[l] & 1);  // 0 or -1
        draws[draw + l] = (draws[draw + l] ^ sign) - sign;
      }
    }
    for (size_t i = 0; i < count; ++i) {
      int64_t sum = 0;
      for (size_t l = 0; l < levels; ++l) {
        if (DPFA_PLANT("discrete_level_missing") && l > 0 && l + 1 == levels) break;
        sum += weights_[l] * draws[i * levels + l];
      }
      out[begin + i] = sum;
    }
  }
}

}  // namespace dpfa
