// Arithmetic modulo p = 2^61 - 1 for the hash of lanes (lane_hash.h), on the host and on a CUDA device.
//
// Every result is the number in [0, p) that it is congruent to, so sums have the same bits in any order.
#pragma once

#include <cstdint>

#include "src/base/host_device.h"

namespace dpfa::comm::secagg {

inline constexpr uint64_t kHashPrime = (uint64_t{1} << 61) - 1;

// A power of a point is multiplied with lanes in limbs of 21, 21 and 19 bits.
inline constexpr int kLimbBits = 21;
inline constexpr uint64_t kLimbMask = (uint64_t{1} << kLimbBits) - 1;

namespace hash_internal {
__extension__ using Int128 = __int128;
__extension__ using Uint128 = unsigned __int128;

// value < 2^122.
DPFA_HOST_DEVICE constexpr uint64_t reduce(Uint128 value) {
  const uint64_t once = static_cast<uint64_t>(value & kHashPrime) + static_cast<uint64_t>(value >> 61);
  const uint64_t twice = (once & kHashPrime) + (once >> 61);
  return twice >= kHashPrime ? twice - kHashPrime : twice;
}
}  // namespace hash_internal

// (a + b) and (a b) modulo p, for a, b < p.
DPFA_HOST_DEVICE constexpr uint64_t add_mod(uint64_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum >= kHashPrime ? sum - kHashPrime : sum;
}
DPFA_HOST_DEVICE constexpr uint64_t multiply_mod(uint64_t a, uint64_t b) {
  return hash_internal::reduce(hash_internal::Uint128{a} * b);
}

// limb[0] + limb[1] 2^21 + limb[2] 2^42 modulo p, each below 2^61 in size.
DPFA_HOST_DEVICE constexpr uint64_t join_limbs(const int64_t* limb) {
  using hash_internal::Int128;
  // Below 2^61 + 2^82 + 2^103 in size: made positive by a multiple of p before it is reduced.
  const Int128 value = Int128{limb[0]} + (Int128{limb[1]} << kLimbBits) + (Int128{limb[2]} << 2 * kLimbBits);
  return hash_internal::reduce(static_cast<hash_internal::Uint128>(value + (Int128{kHashPrime} << 45)));
}

}  // namespace dpfa::comm::secagg
