// Dithered rounding: floor(x + u) with u uniform in [0, 1), of a sum x that is whole on a finer grid.
//
// Guarantee: for neighbouring sums x and x + g on the fine grid and the same u, floor(x + g + u) -
// floor(x + u) is floor(g) or floor(g) + 1, the latter with probability exactly frac(g), whatever x is
// (docs/dithered_rounding.md). It needs one dither per released sum, drawn when the sum is complete: rounding
// parts of a sum one by one rounds every record after an inserted one anew.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/host_device.h"
#include "src/base/stream_key.h"

namespace dpfa {

// floor((value + u) / 2^shift) for u = the upper `shift` bits of `word`: the fraction and the word are
// compared as integers, so no bit of a large value is lost. 0 <= shift <= 32; |value| < 2^62.
DPFA_HOST_DEVICE constexpr int64_t dithered(int64_t value, int shift, uint32_t word) {
  const uint64_t unit = uint64_t{1} << shift;
  const uint64_t fraction = static_cast<uint64_t>(value) & (unit - 1);
  const uint64_t up = fraction + (uint64_t{word} >> (32 - shift)) >= unit;
  return (value >> shift) + static_cast<int64_t>(up);
}

// values[j] := dithered(values[j], shift, word first + j of fill_words(key, step)). The same work for every
// value. Shift 0 leaves them as they are. Throws InternalError for a shift outside [0, 32].
void dither(const StreamKey& key, uint64_t step, uint64_t first, int shift, std::span<int64_t> values);

}  // namespace dpfa
