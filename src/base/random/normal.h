// Standard normals by the Box-Muller transform in double: 128 random bits and constant work per pair.
//
// The radius uniform has 75 bits, evenly spaced and exact towards 0, so the density is right down to the
// smallest value and the largest radius is 10.26 (a true one exceeds it with probability 2^-76). Polynomials
// and fused multiply-adds are our own: every instruction set, and any other device with IEEE double
// arithmetic in round-to-nearest, gives the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/random/generator.h"
#include "src/base/stream_key.h"

namespace dpfa {

// out[j] = normal number i = first + j of the stream (key, step); a function of (key, step, i) and the
// generator alone. first + out.size() <= 2^64.
//
// Layout: group g = i / 128, n = i % 128 / 16, b = i % 16, pair p = n / 2. The pair's 128 bits are words
// 4p..4p+3 of ChaCha20 block 16 g + b (counter and nonce as in chacha20.h), or philox4x32 of the counter 64 g
// + 16 p + b (64 bits, then the 64 bits of step) under the first two words of the key. Even n takes the first
// normal of the pair, odd n the second.
void fill_normals(const StreamKey& key, uint64_t step, uint64_t first, Generator generator,
                  std::span<double> out);

// The transform itself, for tests and for other devices to compare with: pair i from radius[i] and angle[i]
// (the first and the last two words of its 128 bits, low word first). All spans have one length.
void box_muller(std::span<const uint64_t> radius, std::span<const uint64_t> angle, std::span<double> first,
                std::span<double> second);

}  // namespace dpfa
