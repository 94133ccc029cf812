#include "comm/secagg/masks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "comm/secagg/lane_hash.h"
#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/plant.h"
#include "src/base/random/chacha20.h"

namespace dpfa::comm::secagg {
namespace {

// Stream words made at once: they are still in the first cache level when they are added, and few enough for
// the processor to fetch the contribution from memory meanwhile.
constexpr size_t kStreamWords = 512;

// words[i] += word i of `stream`, the stream's words low first.
template <typename Word>
[[gnu::always_inline]] inline void combine(const uint32_t* stream, bool subtract, Word* words, size_t count) {
  static_assert(std::endian::native == std::endian::little);
  const auto mask = [&](size_t i) {
    Word word;
    std::memcpy(&word, stream + i * (sizeof(Word) / sizeof(uint32_t)), sizeof(Word));
    return word;
  };
  if (subtract) {
    for (size_t i = 0; i < count; ++i) words[i] -= mask(i);
  } else {
    for (size_t i = 0; i < count; ++i) words[i] += mask(i);
  }
}

DPFA_CLONES void combine_all(const uint32_t* stream, bool subtract, uint32_t* words, size_t count) {
  combine(stream, subtract, words, count);
}
DPFA_CLONES void combine_all(const uint32_t* stream, bool subtract, uint64_t* words, size_t count) {
  combine(stream, subtract, words, count);
}

}  // namespace

uint64_t nonce_of(int64_t step, int64_t attempt) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  DPFA_CHECK(step >= 0 && step < kLimit && attempt >= 0 && attempt < kLimit, "step ", step, ", attempt ",
             attempt);
  if (DPFA_PLANT("pad_reuse")) return 0;
  return static_cast<uint64_t>(step) | static_cast<uint64_t>(attempt) << 32;
}

template <typename Word>
void Masks::apply_words(uint64_t nonce, uint64_t first, std::span<Word> words) const {
  constexpr size_t kRatio = sizeof(Word) / sizeof(uint32_t), kPart = kStreamWords / kRatio;
  alignas(64) std::array<uint32_t, kStreamWords> stream;
  for (size_t begin = 0; begin < words.size(); begin += kPart) {
    const std::span<Word> part = words.subspan(begin, std::min(kPart, words.size() - begin));
    for (const Key& key : keys_) {
      fill_words(key.key, nonce, (first + begin) * kRatio, std::span(stream).first(part.size() * kRatio));
      combine_all(stream.data(), key.subtract, part.data(), part.size());
    }
  }
  explicit_bzero(stream.data(), sizeof(stream));
}

void Masks::apply(uint64_t nonce, uint64_t first, std::span<uint32_t> words) const {
  apply_words(nonce, first, words);
}

void Masks::apply(uint64_t nonce, uint64_t first, std::span<uint64_t> words) const {
  apply_words(nonce, first, words);
}

void Masks::apply_to_residues(uint64_t nonce, uint64_t first, std::span<uint64_t> residues) const {
  for (const Key& key : keys_) {
    Masks one;
    one.add_key(key.key, /*subtract=*/false);
    std::vector<uint64_t> stream(residues.size());
    one.apply(nonce, first, std::span(stream));
    for (size_t i = 0; i < residues.size(); ++i) {
      const uint64_t pad = stream[i] % LaneHash::kPrime;
      residues[i] = add_mod(residues[i], key.subtract && pad > 0 ? LaneHash::kPrime - pad : pad);
    }
    explicit_bzero(stream.data(), stream.size() * sizeof(uint64_t));
  }
}

}  // namespace dpfa::comm::secagg
