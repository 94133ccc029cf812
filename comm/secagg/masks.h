// Masks that cancel in the sum over ranks: what turns a contribution into words that look uniform.
//
// Ranks r < j that share a key add the stream F of that key on rank r and subtract it on rank j, modulo the
// word. F is ChaCha20 (src/base/random/chacha20.h) with the 96-bit nonce (attempt : 32 | step : 32 | bucket :
// 32) and the block counter 32 bits; a bucket is 2^36 words. No (key, nonce, counter) repeats while (step,
// attempt) does not.
//
// Guarantee: whoever lacks one key of this rank sees words that are indistinguishable from uniform ones,
// whatever the contribution, as long as every nonce is used once (SecureSum sees to that).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/stream_key.h"

namespace dpfa::test {
struct MasksAccess;  // tests/support/secagg_keys.h: what the keys look like
}

namespace dpfa::comm::secagg {

// step | attempt << 32. Throws InternalError where one of the two is negative or beyond 32 bits.
uint64_t nonce_of(int64_t step, int64_t attempt);

class Masks {
 public:
  struct Key {
    StreamKey key;
    bool subtract;
  };

  Masks() = default;
  Masks(Masks&&) = default;
  Masks& operator=(Masks&&) = default;
  // Not copied: what counts the nonces of one would not see those of the other.
  Masks(const Masks&) = delete;
  Masks& operator=(const Masks&) = delete;

  void add_key(const StreamKey& key, bool subtract) { keys_.push_back({key, subtract}); }

  // words[i] := words[i] + sum over keys of +-F(word first + i). A word of 64 bits takes the stream's words
  // 2 i (low) and 2 i + 1.
  void apply(uint64_t nonce, uint64_t first, std::span<uint32_t> words) const;
  void apply(uint64_t nonce, uint64_t first, std::span<uint64_t> words) const;
  // For a device that makes the same words in its own memory.
  std::span<const Key> keys() const { return keys_; }

  // The same modulo LaneHash::kPrime, for residues below it: residues[i] takes word first + i of the stream
  // in words of 64 bits, of which each residue is left over from 8 or 9, so it is uniform up to 2^-61.
  void apply_to_residues(uint64_t nonce, uint64_t first, std::span<uint64_t> residues) const;

 private:
  friend struct test::MasksAccess;
  template <typename Word>
  void apply_words(uint64_t nonce, uint64_t first, std::span<Word> words) const;
  std::vector<Key> keys_;
};

}  // namespace dpfa::comm::secagg
