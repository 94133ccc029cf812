// How small signed integers share the words that a collective adds.
//
// A word of w bits holds L = floor(w / bits) lanes as sum_l v_l 2^(bits l) mod 2^w. Adding words adds lanes;
// no guard bits are needed: unpacking gives every lane exactly where the lane's sum lies in
// [-2^(bits-1), 2^(bits-1)), whatever the single contributions were. A lane whose sum leaves that range
// wraps, and may move its neighbour by one: the integrity hash finds it (lane_hash.h).
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "src/base/host_device.h"

namespace dpfa::comm::secagg {

struct LaneLayout {
  int bits = 32;      // 32 (one lane in 32 bits), 21 (three in 64) or 16 (two in 32)
  int64_t lanes = 0;  // of one contribution

  // Throws ConfigError for other widths, InternalError for a negative number of lanes.
  void check() const;
  int word_bits() const { return bits == 21 ? 64 : 32; }
  int lanes_per_word() const { return word_bits() / bits; }
  int64_t words() const { return (lanes + lanes_per_word() - 1) / lanes_per_word(); }
  int64_t bytes() const { return words() * (word_bits() / 8); }
};

// One word of at most `count` lanes, on the host and on a CUDA device.
template <int kBits, typename Word>
DPFA_HOST_DEVICE constexpr Word word_of(const int32_t* lanes, int count) {
  Word word = 0;
  for (int l = count; l-- > 0;)
    word = (word << kBits % (8 * sizeof(Word))) + static_cast<Word>(int64_t{lanes[l]});
  return word;
}
template <int kBits, typename Word>
DPFA_HOST_DEVICE constexpr void lanes_of(Word word, int32_t* lanes, int count) {
  constexpr int kShift = 8 * sizeof(Word) - kBits;
  using Signed = std::make_signed_t<Word>;
  for (int l = 0; l < count; ++l) {
    // The lowest lane, centred; what it borrowed from the next one goes back by the subtraction.
    const Signed lane = static_cast<Signed>(word << kShift) >> kShift;
    lanes[l] = static_cast<int32_t>(lane);
    word = (word - static_cast<Word>(lane)) >> kBits % (8 * sizeof(Word));
  }
}

// Two lanes of 16 bits in words of 32, three of 21 in words of 64; a lane of 32 bits is a word already.
// `lanes` begin at a word's first lane; the last word may be filled in part, its other lanes are 0. Throws
// InternalError where sizes do not fit.
void pack(std::span<const int32_t> lanes, std::span<uint32_t> words);
void pack(std::span<const int32_t> lanes, std::span<uint64_t> words);
void unpack(std::span<const uint32_t> words, std::span<int32_t> lanes);
void unpack(std::span<const uint64_t> words, std::span<int32_t> lanes);

}  // namespace dpfa::comm::secagg
