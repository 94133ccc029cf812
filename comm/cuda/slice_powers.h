// The powers of a slice's points with which the device pass makes the hash of lane_hash.h: lane i of group t
// of block k of a slice is multiplied with z^(i + 1) z^(lanes of a group x t) z^(lanes of a block x k).
#pragma once

#include <array>

#include "comm/secagg/hash_field.h"

namespace dpfa::comm::cuda {

inline constexpr int kThreads = 256;                         // groups of a block
inline constexpr int64_t kHashSlice = int64_t{98304} * 512;  // LaneHash::kSlice
inline constexpr int kSquares = 14;                          // a slice has fewer than 2^14 blocks
inline constexpr int kMostLanes = 48;                        // of a group

// Powers of the two points z of a slice, for one layout.
struct SlicePowers {
  int32_t lane[2 * 3 * kMostLanes];    // limbs of z^(i + 1) for lane i of a group: (point, limb, lane)
  uint64_t thread[2][kThreads];        // z^(lanes of a group x thread)
  uint64_t block_square[2][kSquares];  // z^(lanes of a block x 2^k)
};

// z^(lanes of the blocks before block number `block` of the slice).
DPFA_HOST_DEVICE inline uint64_t block_power(const SlicePowers& powers, int point, int64_t block) {
  uint64_t power = 1;
  for (int k = 0; k < kSquares; ++k)
    if (block >> k & 1) power = secagg::multiply_mod(power, powers.block_square[point][k]);
  return power;
}

// For groups of `group_lanes` lanes: 16, 32 or 48. Points below kHashPrime.
SlicePowers slice_powers(const std::array<uint64_t, 2>& points, int group_lanes);

}  // namespace dpfa::comm::cuda
