// ChaCha20 (RFC 8439) as a block function and as a random-access stream of words.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "src/base/stream_key.h"

namespace dpfa {

// The block function of RFC 8439 section 2.3.
std::array<uint32_t, 16> chacha20_block(const std::array<uint32_t, 8>& key, uint32_t counter,
                                        const std::array<uint32_t, 3>& nonce);

// out[i] = word first + i of the stream (key, step): word w is word w % 16 of block b = w / 16, whose counter
// is the low half of b and whose nonce is (high half of b, low half of step, high half of step). Any `first`
// with first + out.size() <= 2^64. The stream of normals (normal.h) uses the same blocks: give each use its
// own key.
void fill_words(const StreamKey& key, uint64_t step, uint64_t first, std::span<uint32_t> out);

}  // namespace dpfa
