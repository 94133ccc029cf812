// The rounds of ChaCha20 on eight blocks, in assembly: a state of sixteen words and what their rotations need
// do not fit into the sixteen registers of AVX2, and what compilers make of it moves many words to memory and
// back in every round. Here each of the words 8 to 11 goes there and back once in two rounds.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace dpfa::random_internal {
namespace {

// Register i holds word i, but 8 and 9 hold in turn the words 8 and 9 and the words 10 and 11, while `x`
// keeps the others; 10 and 11 are what rotations need.
#define DPFA_OP(op, a, b, c) op " %%ymm" #a ", %%ymm" #b ", %%ymm" #c "\n\t"
#define DPFA_READ(reg) "vmovdqa 32*" #reg "(%[input]), %%ymm" #reg "\n\t"
#define DPFA_LOAD(reg, word) "vmovdqa 32*" #word "(%[x]), %%ymm" #reg "\n\t"
#define DPFA_STORE(reg, word) "vmovdqa %%ymm" #reg ", 32*" #word "(%[x])\n\t"
#define DPFA_FINISH(reg) "vpaddd 32*" #reg "(%[input]), %%ymm" #reg ", %%ymm" #reg "\n\t" DPFA_STORE(reg, reg)
#define DPFA_ADD(a, b) DPFA_OP("vpaddd", b, a, a)
#define DPFA_XOR(a, b) DPFA_OP("vpxor", b, a, a)
#define DPFA_ROTATE_BYTES(a, order) "vpshufb %[" #order "], %%ymm" #a ", %%ymm" #a "\n\t"
// clang-format off
#define DPFA_ROTATE(a, left, right, t)               \
  "vpslld $" #left ", %%ymm" #a ", %%ymm" #t "\n\t"  \
  "vpsrld $" #right ", %%ymm" #a ", %%ymm" #a "\n\t" \
  DPFA_OP("vpor", t, a, a)
// Two quarter rounds, (a, b, c, d) and (e, f, g, h).
#define DPFA_QUARTERS(a, b, c, d, e, f, g, h)                 \
  DPFA_ADD(a, b) DPFA_ADD(e, f) DPFA_XOR(d, a) DPFA_XOR(h, e) \
  DPFA_ROTATE_BYTES(d, by16) DPFA_ROTATE_BYTES(h, by16)       \
  DPFA_ADD(c, d) DPFA_ADD(g, h) DPFA_XOR(b, c) DPFA_XOR(f, g) \
  DPFA_ROTATE(b, 12, 20, 10) DPFA_ROTATE(f, 12, 20, 11)       \
  DPFA_ADD(a, b) DPFA_ADD(e, f) DPFA_XOR(d, a) DPFA_XOR(h, e) \
  DPFA_ROTATE_BYTES(d, by8) DPFA_ROTATE_BYTES(h, by8)         \
  DPFA_ADD(c, d) DPFA_ADD(g, h) DPFA_XOR(b, c) DPFA_XOR(f, g) \
  DPFA_ROTATE(b, 7, 25, 10) DPFA_ROTATE(f, 7, 25, 11)
// clang-format on

// x[i] := word i after 2 `double_rounds` rounds + input[i] (RFC 8439 section 2.3), lane by lane.
[[gnu::always_inline]] inline void chacha20_rounds_avx2(const __m256i (&input)[16], int64_t double_rounds,
                                                        __m256i (&x)[16]) {
  const __m256i by16 =
      _mm256_broadcastsi128_si256(_mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
  const __m256i by8 =
      _mm256_broadcastsi128_si256(_mm_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));
  asm(DPFA_READ(10) DPFA_READ(11) DPFA_STORE(10, 10) DPFA_STORE(11, 11)
      DPFA_READ(0) DPFA_READ(1) DPFA_READ(2) DPFA_READ(3) DPFA_READ(4) DPFA_READ(5) DPFA_READ(6)
      DPFA_READ(7) DPFA_READ(8) DPFA_READ(9) DPFA_READ(12) DPFA_READ(13) DPFA_READ(14) DPFA_READ(15)
      ".p2align 5\n"
      "1:\n\t"
      DPFA_QUARTERS(0, 4, 8, 12, 1, 5, 9, 13)
      DPFA_STORE(8, 8) DPFA_STORE(9, 9) DPFA_LOAD(8, 10) DPFA_LOAD(9, 11)
      DPFA_QUARTERS(2, 6, 8, 14, 3, 7, 9, 15)
      DPFA_QUARTERS(0, 5, 8, 15, 1, 6, 9, 12)
      DPFA_STORE(8, 10) DPFA_STORE(9, 11) DPFA_LOAD(8, 8) DPFA_LOAD(9, 9)
      DPFA_QUARTERS(2, 7, 8, 13, 3, 4, 9, 14)
      "dec %[double_rounds]\n\t"
      "jnz 1b\n\t"
      DPFA_LOAD(10, 10) DPFA_LOAD(11, 11)
      DPFA_FINISH(0) DPFA_FINISH(1) DPFA_FINISH(2) DPFA_FINISH(3) DPFA_FINISH(4) DPFA_FINISH(5)
      DPFA_FINISH(6) DPFA_FINISH(7) DPFA_FINISH(8) DPFA_FINISH(9) DPFA_FINISH(10) DPFA_FINISH(11)
      DPFA_FINISH(12) DPFA_FINISH(13) DPFA_FINISH(14) DPFA_FINISH(15)
      : "=m"(x), [double_rounds] "+r"(double_rounds)
      : "m"(input), [input] "r"(input), [x] "r"(x), [by16] "m"(by16), [by8] "m"(by8)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

#undef DPFA_OP
#undef DPFA_READ
#undef DPFA_LOAD
#undef DPFA_STORE
#undef DPFA_FINISH
#undef DPFA_ADD
#undef DPFA_XOR
#undef DPFA_ROTATE_BYTES
#undef DPFA_ROTATE
#undef DPFA_QUARTERS

}  // namespace
}  // namespace dpfa::random_internal
