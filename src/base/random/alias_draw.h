// One draw of the base law of discrete_gaussian.h from its alias table, on the host and on a CUDA device.
//
// By selections instead of branches: the same instructions for every value. Internal linkage for the reason
// that lane_generators.h gives.
#pragma once

#include <cstdint>

#include "src/base/random/lane_generators.h"

namespace dpfa::random_internal {
namespace {

// The signed value of the 128 bits (high, low), from a table of 2^bits rows of two words each, low word
// first.
DPFA_LANE int64_t alias_draw(const uint64_t* table, int bits, uint64_t low, uint64_t high) {
  const int shift = 64 - bits;
  const uint64_t below_row = ~uint64_t{0} >> bits;
  const uint64_t* row = table + 2 * (high >> shift);
  const uint64_t row_low = row[0], row_high = row[1];
  const uint64_t place = high & below_row, border = row_high & below_row;
  const bool is_own = (place < border) | ((place == border) & (low < row_low));
  const uint64_t own = -static_cast<uint64_t>(is_own);
  const uint64_t value = (row_high ^ ((high ^ row_high) & own)) >> shift;
  const uint64_t sign = -(low & 1);
  return static_cast<int64_t>((value ^ sign) - sign);
}

}  // namespace
}  // namespace dpfa::random_internal
