#include "src/base/random/chacha20.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "src/base/check.h"
#include "src/base/random/cpu_dispatch.h"

namespace dpfa {
namespace {

void quarter_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  d = std::rotl(d ^ (a += b), 16);
  b = std::rotl(b ^ (c += d), 12);
  d = std::rotl(d ^ (a += b), 8);
  b = std::rotl(b ^ (c += d), 7);
}

}  // namespace

std::array<uint32_t, 16> chacha20_block(const std::array<uint32_t, 8>& key, uint32_t counter,
                                        const std::array<uint32_t, 3>& nonce) {
  std::array<uint32_t, 16> state = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  std::copy(key.begin(), key.end(), state.begin() + 4);
  state[12] = counter;
  std::copy(nonce.begin(), nonce.end(), state.begin() + 13);
  std::array<uint32_t, 16> x = state;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 4; ++i) quarter_round(x[i], x[4 + i], x[8 + i], x[12 + i]);
    for (int i = 0; i < 4; ++i)
      quarter_round(x[i], x[4 + (i + 1) % 4], x[8 + (i + 2) % 4], x[12 + (i + 3) % 4]);
  }
  for (int i = 0; i < 16; ++i) x[i] += state[i];
  return x;
}

void fill_words(const StreamKey& key, uint64_t step, uint64_t first, std::span<uint32_t> out) {
  using random_internal::kGroupWords;
  if (out.empty()) return;
  DPFA_CHECK(out.size() - 1 <= std::numeric_limits<uint64_t>::max() - first, "the stream ends at word 2^64");
  const random_internal::Stream stream = {key.words().data(), step};
  const random_internal::Backend& backend = random_internal::active_backend();
  uint64_t group = first / kGroupWords;
  size_t skip = first % kGroupWords;  // words of the current group before the first one wanted
  while (!out.empty()) {
    const size_t whole = out.size() / kGroupWords;
    if (skip == 0 && whole > 0) {
      backend.chacha20_words(stream, group, whole, out.data());
      group += whole;
      out = out.subspan(whole * kGroupWords);
      continue;
    }
    uint32_t words[kGroupWords];
    backend.chacha20_words(stream, group++, 1, words);
    const size_t taken = std::min(kGroupWords - skip, out.size());
    std::copy_n(words + skip, taken, out.begin());
    out = out.subspan(taken);
    skip = 0;
  }
}

}  // namespace dpfa
