// Discrete Gaussian integers, P(X = k) proportional to exp(-k^2 / (2 s^2)), by tables: shares of noise that
// ranks add as integers (Canonne, Kamath, Steinke 2020, arXiv 2004.00010).
//
// A base law of standard deviation s0 is drawn by the alias method (Walker 1977) from a table whose
// probabilities are whole multiples of 2^-127: one row, one comparison and one selection for every value.
// Larger standard deviations are sums of independent base draws,
//   X = x_0 + B x_1 + ... + B^L x_L,   1 <= B <= 1568,   s^2 = s0^2 (1 + B^2 + ... + B^(2L)),   s0 <= 2400,
// which is again a discrete Gaussian up to a relative error of 4 exp(-2 pi^2 r^2) per level, r = s0 /
// sqrt(B^2 + 1) >= 1.528 (Micciancio and Walter 2017; Peikert 2010): below 2^-62 over all levels, 4 at most.
//
// A draw takes 80 bits of its own: a row, a sign, and the upper bits of a place that is compared with the
// row's border. Where these are equal to the border's, in one of 2^64 draws or fewer, 48 lower bits decide,
// and they are the same for all draws of 64 samples: those differ from independent samples by what two such
// draws among them do (docs/dithered_rounding.md, 6).
//
// Guarantee: every sample costs the same instructions. Outside an event of probability below 2^-76 per
// sample, the probability of each value is that of the discrete Gaussian of standard deviation stddev() up to
// a relative error of 2^-36; the largest value is at least 12.3 stddev(). Lookups stay inside one table of at
// most 512 KiB. Every row of it is looked up equally often, and one row stands for up to two values; the
// memory lines that lookups touch do depend on the values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/stream_key.h"

namespace dpfa {

__extension__ using Uint128 = unsigned __int128;

class DiscreteGaussian {
 public:
  static constexpr double kSmallest = 1, kLargest = 0x1p40;
  // E_Q[(P / Q - 1)^2] for P the law of n samples and Q that of n independent discrete Gaussians of parameter
  // stddev() is at most exp(n kChiSquare) - 1, whichever samples they are.
  static constexpr double kChiSquare = 0x1p-117;

  // Throws InternalError for a standard deviation outside [kSmallest, kLargest].
  explicit DiscreteGaussian(double stddev);

  // The parameter s of what is drawn: at least what was asked for and at most 2^-39 more, relatively.
  double stddev() const { return stddev_; }

  // out[j] = sample i = first + j of the stream (key, step): a function of (key, step, i) alone. The samples
  // 64 g .. 64 g + 63 take the words from 16 (1 + 10 n) g on of fill_words (chacha20.h), for n =
  // weights().size(), as alias_draw.h says: give each use its own key. Throws InternalError where the stream
  // ends before the last sample.
  void fill(const StreamKey& key, uint64_t step, uint64_t first, std::span<int64_t> out) const;

  // What samples are made of, for tests and for other devices. Of a draw's high word the lowest bit is the
  // sign (set: negative), the upper k bits are the row r of the table of 2^k; the 63 - k bits between, then
  // its middle bits, then the lower 48 of the shared bits are its place. |x_l| is r where the place is below
  // the border of row r, and else the row's alias. The upper word of a row holds the alias in its upper k
  // bits and, from its second bit on, the upper 63 - k bits of the border; the lower word holds the others.
  const std::vector<int64_t>& weights() const { return weights_; }  // 1, B, ..., B^L
  double base_stddev() const { return base_stddev_; }
  size_t rows() const { return table_.size() / 2; }
  std::span<const uint64_t> table() const { return table_; }  // two words of each row, lower word first

 private:
  double stddev_, base_stddev_;
  std::vector<int64_t> weights_;
  std::vector<uint64_t> table_;
};

// What DiscreteGaussian::fill does with its weights and its table: for tests, which bring tables of their
// own.
namespace random_internal {
void fill_samples(std::span<const int64_t> weights, std::span<const uint64_t> table, const StreamKey& key,
                  uint64_t step, uint64_t first, std::span<int64_t> out);
}

}  // namespace dpfa
