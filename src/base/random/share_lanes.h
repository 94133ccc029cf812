// RankContribution::make (rank_contribution.h) as the code of one thread: sixteen lanes, as many as one
// ChaCha20 block dithers and a quarter of a group of noise, on the host and on a CUDA device. The same bits:
// the same words of the same streams, whole numbers only.
#pragma once

#include "src/base/random/alias_draw.h"
#include "src/base/random/dither.h"
#include "src/base/random/scalar_lane.h"

namespace dpfa::random_internal {

inline constexpr int kShareLanes = 16;

// What a rank's contribution is made of (RankShare, DiscreteGaussian) as a device sees it.
struct ShareTables {
  uint32_t noise_key[8], dither_key[8];
  uint64_t draw;
  int64_t clamp;
  int32_t dither_shift;
  int32_t levels, table_bits;
  const int64_t* weights;  // (levels): DiscreteGaussian::weights
  const uint64_t* table;   // (2^table_bits, 2): DiscreteGaussian::table
};

namespace {

// lanes[i stride] := the noise of element first + i modulo 2^32, i < 16; `first` is a multiple of 16.
DPFA_LANE void noise_lanes(const ShareTables& share, uint64_t first, uint32_t* lanes, int stride) {
  const auto levels = static_cast<uint64_t>(share.levels);
  const Stream stream = {share.noise_key, share.draw};
  const uint64_t group_block = first / kGroupSamples * group_blocks(levels);
  const uint64_t first_draw = first % kGroupSamples * levels;  // of the group's
  uint32_t of_group[16], middle[16] = {}, high[16];
  words_of_block(stream, group_block, of_group);
  const uint64_t shared = shared_bits(of_group[0], of_group[1]);
  int32_t level = 0;
  uint32_t sum = 0;
  for (uint64_t d = first_draw; d < first_draw + kShareLanes * levels; d += 8) {  // a block of high words
    if (d == first_draw || d % 32 == 0) words_of_block(stream, group_block + 1 + d / 32, middle);
    words_of_block(stream, group_block + blocks_before_high_words(levels) + d / 8, high);
    uint32_t of_block[4];  // by selections: what is indexed by a variable would leave a GPU's registers
    DPFA_UNROLL
    for (int i = 0; i < 4; ++i) {
      of_block[i] = middle[i];
      DPFA_UNROLL
      for (uint32_t part = 1; part < 4; ++part)
        if (d % 32 / 8 == part) of_block[i] = middle[4 * part + i];
    }
    DPFA_UNROLL
    for (int draw = 0; draw < 8; ++draw) {
      const uint32_t half = of_block[draw / 2] >> 16 * (draw % 2) & 0xFFFF;
      const int64_t x = alias_draw(share.table, share.table_bits, low_bits(shared, half),
                                   high[2 * draw] | uint64_t{high[2 * draw + 1]} << 32);
      sum += static_cast<uint32_t>(share.weights[level]) * static_cast<uint32_t>(x);
      if (++level < share.levels) continue;
      *lanes = sum;
      lanes += stride;
      level = 0;
      sum = 0;
    }
  }
}

// lanes[i stride] += clamp(dither(sum[i])) of element first + i modulo 2^32 for i < count; lanes from `count`
// on, up to 16, become 0.
DPFA_LANE void add_cut_sums(const ShareTables& share, uint64_t first, const int64_t* sum, int count,
                            uint32_t* lanes, int stride) {
  uint32_t words[16] = {};
  if (share.dither_shift != 0) words_of_block({share.dither_key, share.draw}, first / kShareLanes, words);
  DPFA_UNROLL
  for (int i = 0; i < kShareLanes; ++i) {
    uint32_t lane = 0;
    if (i < count) {
      const int64_t rounded = dithered(sum[i], share.dither_shift, words[i]);
      const int64_t cut = rounded > share.clamp    ? share.clamp
                          : rounded < -share.clamp ? -share.clamp
                                                   : rounded;
      lane = lanes[i * stride] + static_cast<uint32_t>(cut);
    }
    lanes[i * stride] = lane;
  }
}

}  // namespace
}  // namespace dpfa::random_internal
