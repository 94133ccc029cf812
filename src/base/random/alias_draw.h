// One draw of the base law of discrete_gaussian.h from its alias table, on the host and on a CUDA device, and
// where a group of samples has what draws are made of.
//
// By selections instead of branches: the same instructions for every value. Internal linkage for the reason
// that lane_generators.h gives.
#pragma once

#include <cstdint>

#include "src/base/random/lane_generators.h"

namespace dpfa::random_internal {

// A group of 64 samples of n draws each takes whole blocks of the stream:
//   words 0 and 1          what the places of all its draws share: 48 bits of a number, lower word first
//   words 16 ..            middle bits: draw d (n j + l for level l of sample j) has half-word d, lower first
//   words 16 (1 + 2 n) ..  high words: draw d has the number in the words 2 d and 2 d + 1 from there on
inline constexpr uint32_t kGroupSamples = 64;
inline constexpr int kSharedBits = 48;

namespace {

DPFA_LANE constexpr uint64_t group_blocks(uint64_t levels) { return 1 + 10 * levels; }
DPFA_LANE constexpr uint64_t blocks_before_high_words(uint64_t levels) { return 1 + 2 * levels; }

// What the places of a group's draws share, of its words 0 and 1.
DPFA_LANE constexpr uint64_t shared_bits(uint32_t first, uint32_t second) {
  return (first | uint64_t{second} << 32) & ((uint64_t{1} << kSharedBits) - 1);
}

// The lower 64 bits of a draw's place: its own half-word above the bits of its group.
DPFA_LANE constexpr uint64_t low_bits(uint64_t shared, uint32_t middle) {
  return shared | uint64_t{middle} << kSharedBits;
}

// The signed value of a draw, from a table of 2^bits rows of two words each, lower word first.
DPFA_LANE int64_t alias_draw(const uint64_t* table, int bits, uint64_t low, uint64_t high) {
  const int shift = 64 - bits;
  const uint64_t places = ~uint64_t{1} << bits >> bits;  // without row and sign
  const uint64_t* row = table + 2 * (high >> shift);
  const uint64_t row_low = row[0], row_high = row[1];
  const uint64_t place = high & places, border = row_high & places;
  const bool is_own = (place < border) | ((place == border) & (low < row_low));
  const uint64_t own = -static_cast<uint64_t>(is_own);
  const uint64_t value = (row_high ^ ((high ^ row_high) & own)) >> shift;
  const uint64_t sign = -(high & 1);
  return static_cast<int64_t>((value ^ sign) - sign);
}

}  // namespace
}  // namespace dpfa::random_internal
