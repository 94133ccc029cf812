#include "src/base/random/dither.h"

#include <string.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/plant.h"
#include "src/base/random/chacha20.h"

namespace dpfa {
namespace {

// The planted bug "fp32_dither_floor": above 2^23 a float has no fraction to compare.
int64_t float_floor(int64_t value, int shift, uint32_t word) {
  const float unit = std::ldexp(1.0f, -shift), u = std::ldexp(static_cast<float>(word), -32);
  return static_cast<int64_t>(std::floor(static_cast<float>(value) * unit + u));
}

DPFA_CLONES void round_all(std::span<int64_t> values, const uint32_t* words, int shift) {
  for (size_t i = 0; i < values.size(); ++i) values[i] = dithered(values[i], shift, words[i]);
}

}  // namespace

void dither(const StreamKey& key, uint64_t step, uint64_t first, int shift, std::span<int64_t> values) {
  DPFA_CHECK(shift >= 0 && shift <= 32, "a dither of ", shift, " bits");
  if (shift == 0) return;
  std::array<uint32_t, 1024> words;
  for (size_t begin = 0; begin < values.size(); begin += words.size()) {
    const size_t count = std::min(words.size(), values.size() - begin);
    fill_words(key, step, first + begin, std::span(words).first(count));
    if (DPFA_PLANT("fp32_dither_floor"))
      for (size_t i = 0; i < count; ++i) values[begin + i] = float_floor(values[begin + i], shift, words[i]);
    else
      round_all(values.subspan(begin, count), words.data(), shift);
  }
  explicit_bzero(words.data(), sizeof(words));
}

}  // namespace dpfa
