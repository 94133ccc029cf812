// The vector operations of lane_generators.h and lanes.h on one lane: the transform of normal.h as a function
// of one thread, on the host and on a CUDA device. Includers on the host are compiled with -ffp-contract=off.
#pragma once

#include <bit>
#include <cmath>

#include "src/base/random/lanes.h"

namespace dpfa::random_internal {
namespace {

struct ScalarLane {
  using U32 = uint32_t;
  using U64 = uint64_t;
  using F64 = double;

  DPFA_LANE static U32 set(uint32_t v) { return v; }
  DPFA_LANE static F64 set(double v) { return v; }
  DPFA_LANE static U64 set64(uint64_t v) { return v; }

  DPFA_LANE static U32 add(U32 a, U32 b) { return a + b; }
  DPFA_LANE static U32 bit_xor(U32 a, U32 b) { return a ^ b; }
  template <int kBits>
  DPFA_LANE static U32 rotate(U32 a) {
    return a << kBits | a >> (32 - kBits);
  }
  DPFA_LANE static void multiply(U32 a, uint32_t factor, U32& high, U32& low) {
    const uint64_t product = uint64_t{a} * factor;
    high = static_cast<uint32_t>(product >> 32);
    low = static_cast<uint32_t>(product);
  }

  DPFA_LANE static U64 add64(U64 a, U64 b) { return a + b; }
  DPFA_LANE static U64 sub64(U64 a, U64 b) { return a - b; }
  DPFA_LANE static U64 bit_and(U64 a, U64 b) { return a & b; }
  DPFA_LANE static U64 bit_or(U64 a, U64 b) { return a | b; }
  template <int kBits>
  DPFA_LANE static U64 shift_right64(U64 a) {
    return a >> kBits;
  }
  DPFA_LANE static F64 from_u64(U64 a) { return static_cast<double>(a); }  // to nearest

#if defined(__CUDA_ARCH__)
  // The intrinsics round once each; plain operators might be fused.
  DPFA_LANE static U64 as_bits(F64 a) { return static_cast<uint64_t>(__double_as_longlong(a)); }
  DPFA_LANE static F64 as_double(U64 a) { return __longlong_as_double(static_cast<long long>(a)); }
  DPFA_LANE static F64 add(F64 a, F64 b) { return __dadd_rn(a, b); }
  DPFA_LANE static F64 sub(F64 a, F64 b) { return __dsub_rn(a, b); }
  DPFA_LANE static F64 mul(F64 a, F64 b) { return __dmul_rn(a, b); }
  DPFA_LANE static F64 div(F64 a, F64 b) { return __ddiv_rn(a, b); }
  DPFA_LANE static F64 fma(F64 a, F64 b, F64 c) { return __fma_rn(a, b, c); }
  DPFA_LANE static F64 sqrt(F64 a) { return __dsqrt_rn(a); }
#else
  DPFA_LANE static U64 as_bits(F64 a) { return std::bit_cast<uint64_t>(a); }
  DPFA_LANE static F64 as_double(U64 a) { return std::bit_cast<double>(a); }
  DPFA_LANE static F64 add(F64 a, F64 b) { return a + b; }
  DPFA_LANE static F64 sub(F64 a, F64 b) { return a - b; }
  DPFA_LANE static F64 mul(F64 a, F64 b) { return a * b; }
  DPFA_LANE static F64 div(F64 a, F64 b) { return a / b; }
  DPFA_LANE static F64 fma(F64 a, F64 b, F64 c) { return std::fma(a, b, c); }
  DPFA_LANE static F64 sqrt(F64 a) { return std::sqrt(a); }
#endif
  DPFA_LANE static F64 flip_sign_by_bit63(F64 a, U64 bits) {
    return as_double(as_bits(a) ^ (bits & uint64_t{1} << 63));
  }
  DPFA_LANE static F64 select_by_bit62(U64 bits, F64 a, F64 b) { return bits >> 62 & 1 ? b : a; }
};

// The words of ChaCha20 block `block`.
DPFA_LANE void words_of_block(const Stream& stream, uint64_t block, uint32_t (&words)[16]) {
  ChaCha20Input<ScalarLane> input(stream);
  input.set_block(block, 0u);
  chacha20<ScalarLane>(input, words);
}

// The eight normals of ChaCha20 block `block`, or of the four Philox counters in its place: numbers
// 128 (block / 16) + 16 n + block % 16 of the stream for n = 0..7 (layout in normal.h).
inline constexpr int kNormalsOfBlock = 8;

template <bool kChaCha>
DPFA_LANE void normals_of_block(const Stream& stream, uint64_t block, double (&normals)[kNormalsOfBlock]) {
  uint32_t words[16];
  if constexpr (kChaCha) {
    words_of_block(stream, block, words);
  } else {
    for (int pair = 0; pair < 4; ++pair) {
      uint32_t quarter[4];
      philox<ScalarLane>(stream, block / 16 * 64 + 16 * pair + block % 16, 0u, quarter);
      for (int i = 0; i < 4; ++i) words[4 * pair + i] = quarter[i];
    }
  }
  for (int pair = 0; pair < 4; ++pair) {
    const uint32_t* w = words + 4 * pair;
    box_muller<ScalarLane>(w[0] | uint64_t{w[1]} << 32, w[2] | uint64_t{w[3]} << 32, normals[2 * pair],
                           normals[2 * pair + 1]);
  }
}

}  // namespace
}  // namespace dpfa::random_internal
