// ChaCha20 and Philox4x32-10 over a set of vector operations V, one block or counter per lane.
//
// V has kLanes lanes of 32 bits (U32) and kLanes / 2 of 64 bits (U64, F64). Everything here and in lanes.h
// has internal linkage and calls nothing outside V: code compiled for a wider instruction set must not be
// merged by the linker with code that every processor runs.
#pragma once

#include "src/base/plant.h"
#include "src/base/random/backend.h"

#if defined(__CUDACC__)
#define DPFA_LANE __host__ __device__ __forceinline__
#else
#define DPFA_LANE [[gnu::always_inline]] inline
#endif

namespace dpfa::random_internal {
namespace {

template <class V>
DPFA_LANE void quarter_round(typename V::U32& a, typename V::U32& b, typename V::U32& c, typename V::U32& d) {
  a = V::add(a, b);
  d = V::template rotate<16>(V::bit_xor(d, a));
  c = V::add(c, d);
  b = V::template rotate<12>(V::bit_xor(b, c));
  a = V::add(a, b);
  d = V::template rotate<8>(V::bit_xor(d, a));
  c = V::add(c, d);
  b = V::template rotate<7>(V::bit_xor(b, c));
}

// The state that RFC 8439 section 2.3 begins a block with, in every lane.
template <class V>
struct ChaCha20Input {
  typename V::U32 word[16];

  // All but the counter, which set_block() adds.
  DPFA_LANE explicit ChaCha20Input(const Stream& stream) {
    const uint32_t constant[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"
    for (int i = 0; i < 4; ++i) word[i] = V::set(constant[i]);
    for (int i = 0; i < 8; ++i) word[4 + i] = V::set(stream.key[i]);
    word[14] = V::set(static_cast<uint32_t>(stream.step));
    word[15] = V::set(static_cast<uint32_t>(stream.step >> 32));
  }

  // Lane l becomes block first_block + counters[l].
  DPFA_LANE void set_block(uint64_t first_block, typename V::U32 counters) {
    word[12] = V::add(V::set(static_cast<uint32_t>(first_block)), counters);
    word[13] = V::set(static_cast<uint32_t>(first_block >> 32));
  }
};

// The block of RFC 8439 section 2.3 in every lane: x[i] is word i. A set of operations may bring its own
// rounds.
template <class V>
DPFA_LANE void chacha20(const ChaCha20Input<V>& input, typename V::U32 (&x)[16]) {
  const int double_rounds = DPFA_PLANT("one_round_cipher") ? 1 : 10;
  if constexpr (requires { V::chacha20_rounds(input.word, double_rounds, x); }) {
    V::chacha20_rounds(input.word, double_rounds, x);
  } else {
    for (int i = 0; i < 16; ++i) x[i] = input.word[i];
    for (int round = 0; round < double_rounds; ++round) {
      quarter_round<V>(x[0], x[4], x[8], x[12]);
      quarter_round<V>(x[1], x[5], x[9], x[13]);
      quarter_round<V>(x[2], x[6], x[10], x[14]);
      quarter_round<V>(x[3], x[7], x[11], x[15]);
      quarter_round<V>(x[0], x[5], x[10], x[15]);
      quarter_round<V>(x[1], x[6], x[11], x[12]);
      quarter_round<V>(x[2], x[7], x[8], x[13]);
      quarter_round<V>(x[3], x[4], x[9], x[14]);
    }
    for (int i = 0; i < 16; ++i) x[i] = V::add(x[i], input.word[i]);
  }
}

// Philox4x32-10 (Salmon et al. 2011) in every lane, counter (low, high, step low, step high).
template <class V>
DPFA_LANE void philox(const Stream& stream, uint64_t first, typename V::U32 counters,
                      typename V::U32 (&c)[4]) {
  uint32_t k0 = stream.key[0], k1 = stream.key[1];
  c[0] = V::add(V::set(static_cast<uint32_t>(first)), counters);
  c[1] = V::set(static_cast<uint32_t>(first >> 32));
  c[2] = V::set(static_cast<uint32_t>(stream.step));
  c[3] = V::set(static_cast<uint32_t>(stream.step >> 32));
  for (int round = 0; round < 10; ++round) {
    typename V::U32 high0, low0, high1, low1;
    V::multiply(c[0], 0xD2511F53, high0, low0);
    V::multiply(c[2], 0xCD9E8D57, high1, low1);
    c[0] = V::bit_xor(V::bit_xor(high1, c[1]), V::set(k0));
    c[1] = low1;
    c[2] = V::bit_xor(V::bit_xor(high0, c[3]), V::set(k1));
    c[3] = low0;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
}

}  // namespace
}  // namespace dpfa::random_internal
