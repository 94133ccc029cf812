// A hash of integers that adds up: the hash of a sum is the sum of the hashes, modulo p = 2^61 - 1.
//
// For a slice of lanes y_0, y_1, ... and a point z, h(y) = sum_i y_i z^(i+1) mod p, at two secret points
// (polynomial hashing: Carter and Wegman 1979). Every rank hashes its own contribution as integers, before
// packing and masking; where the sum of those hashes is the hash of the decoded sum, the sum is that of the
// contributions. Two different sums, wrapped, altered or incomplete in whatever way that does not depend on
// the points, agree at both points with probability at most (d / p)^2 for d lanes in the slice: below 2^-70.
//
// The points must be secret to whoever can alter the sum, and fresh for each step and slice.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/secagg/hash_field.h"
#include "src/base/stream_key.h"

namespace dpfa::comm::secagg {

class LaneHash {
 public:
  static constexpr int64_t kBlock = 512;                   // lanes whose powers are in tables
  static constexpr int64_t kSlice = int64_t{98304} * 512;  // lanes of one slice: 2^25.6
  static constexpr uint64_t kPrime = kHashPrime;

  // With the points of slice `slice` of the step with this nonce.
  LaneHash(const StreamKey& key, uint64_t nonce, int64_t slice);
  LaneHash(const LaneHash&) = delete;
  LaneHash& operator=(const LaneHash&) = delete;
  ~LaneHash();

  // What the lanes y_first, y_(first + 1), ... of the slice add to h at both points, each below kPrime: sums
  // of it modulo kPrime are the same in every order. `first` is a multiple of kBlock.
  std::array<uint64_t, 2> part(int64_t first, std::span<const int32_t> lanes) const;

 private:
  struct Point {
    std::vector<int32_t> powers;  // z^(j+1) in limbs of 21, 21 and 19 bits, kBlock each
    uint64_t block_power;         // z^kBlock
  };
  std::array<Point, 2> points_;
};

// The points of a slice, below kPrime: words 4 slice .. 4 slice + 3 of the stream, the lower 61 bits of each
// two.
std::array<uint64_t, 2> hash_points(const StreamKey& key, uint64_t nonce, int64_t slice);

}  // namespace dpfa::comm::secagg
