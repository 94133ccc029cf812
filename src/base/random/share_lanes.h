// RankContribution::make (rank_contribution.h) as the code of one thread: sixteen lanes, as many as one
// ChaCha20 block dithers, on the host and on a CUDA device. The same bits: the same words of the same
// streams, whole numbers only.
#pragma once

#include "src/base/random/discrete_gaussian.h"
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
  int32_t levels, rows;
  const int64_t* weights;  // (levels): DiscreteGaussian::weights
  const Uint128* table;    // (rows): DiscreteGaussian::thresholds
};

constexpr bool is_table(uint64_t rows) { return std::has_single_bit(rows + 1); }

namespace {

// One draw of the base law from four words of the stream, by the rule of discrete_gaussian.h. The same steps
// for every value.
DPFA_LANE int32_t base_draw(const Uint128* table, int32_t rows, const uint32_t* words) {
  const uint64_t low = words[0] | uint64_t{words[1]} << 32, high = words[2] | uint64_t{words[3]} << 32;
  const Uint128 u = (static_cast<Uint128>(high) << 64 | low) >> 1;
  int32_t count = 0;  // all thresholds before it are <= u
  for (int32_t half = (rows + 1) / 2; half > 0; half /= 2)
    count += half & -static_cast<int32_t>(table[count + half - 1] <= u);
  const int32_t sign = -static_cast<int32_t>(low & 1);  // 0 or -1
  return (count ^ sign) - sign;
}

// lanes[i stride] := the noise of element first + i modulo 2^32, i < 16; `first` is a multiple of 16. The
// table may be a copy of share.table in faster memory.
DPFA_LANE void noise_lanes(const ShareTables& share, const Uint128* table, uint64_t first, uint32_t* lanes,
                           int stride) {
  const auto levels = static_cast<uint64_t>(share.levels);
  const uint64_t first_block = first / 4 * levels;  // a sample has 4 words of each level
  int32_t level = 0;
  uint32_t sum = 0;
  for (uint64_t block = 0; block < 4 * levels; ++block) {
    uint32_t words[16];
    chacha20<ScalarLane>({share.noise_key, share.draw}, first_block + block, 0u, words);
    for (int draw = 0; draw < 4; ++draw) {
      const int32_t x = base_draw(table, share.rows, words + 4 * draw);
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
  if (share.dither_shift != 0)
    chacha20<ScalarLane>({share.dither_key, share.draw}, first / kShareLanes, 0u, words);
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
