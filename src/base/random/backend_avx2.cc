#include <immintrin.h>

#include "src/base/random/lanes.h"

namespace dpfa::random_internal {
namespace {

struct Avx2 {
  static constexpr size_t kLanes = 8;
  using U32 = __m256i;
  using U64 = __m256i;
  using F64 = __m256d;

  DPFA_LANE static U32 set(uint32_t v) { return _mm256_set1_epi32(static_cast<int>(v)); }
  DPFA_LANE static F64 set(double v) { return _mm256_set1_pd(v); }
  DPFA_LANE static U64 set64(uint64_t v) { return _mm256_set1_epi64x(static_cast<int64_t>(v)); }
  DPFA_LANE static U64 load64(const uint64_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  DPFA_LANE static void store(uint32_t* p, U32 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  DPFA_LANE static void store(double* p, F64 v) { _mm256_storeu_pd(p, v); }
  // Word i of block `lane` is lane `lane` of x[i]. Rows of four words first: in four[i][e] the 128-bit half L
  // holds the words 4 i .. 4 i + 3 of block 4 L + e.
  DPFA_LANE static void store_blocks(uint32_t* out, const U32 (&x)[16]) {
    U32 four[4][4];
    for (int i = 0; i < 4; ++i) {
      const U32 low01 = _mm256_unpacklo_epi32(x[4 * i], x[4 * i + 1]);
      const U32 high01 = _mm256_unpackhi_epi32(x[4 * i], x[4 * i + 1]);
      const U32 low23 = _mm256_unpacklo_epi32(x[4 * i + 2], x[4 * i + 3]);
      const U32 high23 = _mm256_unpackhi_epi32(x[4 * i + 2], x[4 * i + 3]);
      four[i][0] = _mm256_unpacklo_epi64(low01, low23);
      four[i][1] = _mm256_unpackhi_epi64(low01, low23);
      four[i][2] = _mm256_unpacklo_epi64(high01, high23);
      four[i][3] = _mm256_unpackhi_epi64(high01, high23);
    }
    for (int e = 0; e < 4; ++e)
      for (int pair = 0; pair < 2; ++pair) {
        const U32 first = four[2 * pair][e], second = four[2 * pair + 1][e];
        store(out + 16 * e + 8 * pair, _mm256_permute2x128_si256(first, second, 0x20));
        store(out + 16 * (4 + e) + 8 * pair, _mm256_permute2x128_si256(first, second, 0x31));
      }
  }

  DPFA_LANE static U32 natural_order() { return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0); }
  // join_low() takes the lanes 0 1 4 5 and join_high() the others: number them so that the joined vectors
  // hold 0..3 and 4..7.
  DPFA_LANE static U32 join_order() { return _mm256_set_epi32(7, 6, 3, 2, 5, 4, 1, 0); }
  DPFA_LANE static U64 join_low(U32 low, U32 high) { return _mm256_unpacklo_epi32(low, high); }
  DPFA_LANE static U64 join_high(U32 low, U32 high) { return _mm256_unpackhi_epi32(low, high); }

  DPFA_LANE static U32 add(U32 a, U32 b) { return _mm256_add_epi32(a, b); }
  DPFA_LANE static U32 bit_xor(U32 a, U32 b) { return _mm256_xor_si256(a, b); }
  template <int kBits>
  DPFA_LANE static U32 rotate(U32 a) {
    if constexpr (kBits == 16) {
      return _mm256_shuffle_epi8(a, _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2, 13,
                                                    12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
    } else if constexpr (kBits == 8) {
      return _mm256_shuffle_epi8(a, _mm256_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3, 14,
                                                    13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));
    } else {
      return _mm256_or_si256(_mm256_slli_epi32(a, kBits), _mm256_srli_epi32(a, 32 - kBits));
    }
  }
  DPFA_LANE static void multiply(U32 a, uint32_t factor, U32& high, U32& low) {
    const __m256i m = set(factor);
    const __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }

  DPFA_LANE static U64 add64(U64 a, U64 b) { return _mm256_add_epi64(a, b); }
  DPFA_LANE static U64 sub64(U64 a, U64 b) { return _mm256_sub_epi64(a, b); }
  DPFA_LANE static U64 bit_and(U64 a, U64 b) { return _mm256_and_si256(a, b); }
  DPFA_LANE static U64 bit_or(U64 a, U64 b) { return _mm256_or_si256(a, b); }
  template <int kBits>
  DPFA_LANE static U64 shift_right64(U64 a) {
    return _mm256_srli_epi64(a, kBits);
  }
  DPFA_LANE static U64 as_bits(F64 a) { return _mm256_castpd_si256(a); }
  DPFA_LANE static F64 as_double(U64 a) { return _mm256_castsi256_pd(a); }
  // To nearest. AVX2 has no conversion from 64-bit integers: the halves become the mantissas of 2^52 + low
  // and 2^84 + 2^32 high; only the last addition rounds.
  DPFA_LANE static F64 from_u64(U64 a) {
    const F64 low = as_double(_mm256_blend_epi32(a, set64(kBitsOf2To52), 0xAA));
    const F64 high = as_double(bit_or(shift_right64<32>(a), set64(0x4530000000000000)));
    return add(sub(high, set(0x1p84 + 0x1p52)), low);
  }

  DPFA_LANE static F64 add(F64 a, F64 b) { return _mm256_add_pd(a, b); }
  DPFA_LANE static F64 sub(F64 a, F64 b) { return _mm256_sub_pd(a, b); }
  DPFA_LANE static F64 mul(F64 a, F64 b) { return _mm256_mul_pd(a, b); }
  DPFA_LANE static F64 div(F64 a, F64 b) { return _mm256_div_pd(a, b); }
  DPFA_LANE static F64 fma(F64 a, F64 b, F64 c) { return _mm256_fmadd_pd(a, b, c); }
  DPFA_LANE static F64 sqrt(F64 a) { return _mm256_sqrt_pd(a); }
  DPFA_LANE static F64 flip_sign_by_bit63(F64 a, U64 bits) {
    return _mm256_xor_pd(a, as_double(bit_and(bits, set64(uint64_t{1} << 63))));
  }
  // Bit 62 clear: a, set: b.
  DPFA_LANE static F64 select_by_bit62(U64 bits, F64 a, F64 b) {
    return _mm256_blendv_pd(a, b, as_double(_mm256_slli_epi64(bits, 1)));
  }
};

}  // namespace

constexpr Backend kAvx2Backend = backend_of<Avx2>();

}  // namespace dpfa::random_internal
