#include <immintrin.h>

#include "src/base/random/lanes.h"

namespace dpfa::random_internal {
namespace {

struct Avx512 {
  static constexpr size_t kLanes = 16;
  using U32 = __m512i;
  using U64 = __m512i;
  using F64 = __m512d;

  DPFA_LANE static U32 set(uint32_t v) { return _mm512_set1_epi32(static_cast<int>(v)); }
  DPFA_LANE static F64 set(double v) { return _mm512_set1_pd(v); }
  DPFA_LANE static U64 set64(uint64_t v) { return _mm512_set1_epi64(static_cast<int64_t>(v)); }
  DPFA_LANE static U64 load64(const uint64_t* p) { return _mm512_loadu_si512(p); }
  DPFA_LANE static void store(uint32_t* p, U32 v) { _mm512_storeu_si512(p, v); }
  DPFA_LANE static void store(double* p, F64 v) { _mm512_storeu_pd(p, v); }
  // Word i of block `lane` is lane `lane` of x[i]. Rows of four words first: in four[i][e] the 128-bit
  // quarter L holds the words 4 i .. 4 i + 3 of block 4 L + e.
  DPFA_LANE static void store_blocks(uint32_t* out, const U32 (&x)[16]) {
    U32 four[4][4];
    for (int i = 0; i < 4; ++i) {
      const U32 low01 = _mm512_unpacklo_epi32(x[4 * i], x[4 * i + 1]);
      const U32 high01 = _mm512_unpackhi_epi32(x[4 * i], x[4 * i + 1]);
      const U32 low23 = _mm512_unpacklo_epi32(x[4 * i + 2], x[4 * i + 3]);
      const U32 high23 = _mm512_unpackhi_epi32(x[4 * i + 2], x[4 * i + 3]);
      four[i][0] = _mm512_unpacklo_epi64(low01, low23);
      four[i][1] = _mm512_unpackhi_epi64(low01, low23);
      four[i][2] = _mm512_unpacklo_epi64(high01, high23);
      four[i][3] = _mm512_unpackhi_epi64(high01, high23);
    }
    for (int e = 0; e < 4; ++e) {
      const U32 front01 = _mm512_shuffle_i32x4(four[0][e], four[1][e], 0x44);
      const U32 front23 = _mm512_shuffle_i32x4(four[2][e], four[3][e], 0x44);
      const U32 back01 = _mm512_shuffle_i32x4(four[0][e], four[1][e], 0xEE);
      const U32 back23 = _mm512_shuffle_i32x4(four[2][e], four[3][e], 0xEE);
      store(out + 16 * e, _mm512_shuffle_i32x4(front01, front23, 0x88));
      store(out + 16 * (4 + e), _mm512_shuffle_i32x4(front01, front23, 0xDD));
      store(out + 16 * (8 + e), _mm512_shuffle_i32x4(back01, back23, 0x88));
      store(out + 16 * (12 + e), _mm512_shuffle_i32x4(back01, back23, 0xDD));
    }
  }

  DPFA_LANE static U32 natural_order() {
    return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  }
  // join_low() takes the lanes 0 1 4 5 8 9 12 13 and join_high() the others: number them so that the joined
  // vectors hold 0..7 and 8..15.
  DPFA_LANE static U32 join_order() {
    return _mm512_set_epi32(15, 14, 7, 6, 13, 12, 5, 4, 11, 10, 3, 2, 9, 8, 1, 0);
  }
  DPFA_LANE static U64 join_low(U32 low, U32 high) { return _mm512_unpacklo_epi32(low, high); }
  DPFA_LANE static U64 join_high(U32 low, U32 high) { return _mm512_unpackhi_epi32(low, high); }

  DPFA_LANE static U32 add(U32 a, U32 b) { return _mm512_add_epi32(a, b); }
  DPFA_LANE static U32 bit_xor(U32 a, U32 b) { return _mm512_xor_si512(a, b); }
  template <int kBits>
  DPFA_LANE static U32 rotate(U32 a) {
    return _mm512_rol_epi32(a, kBits);
  }
  DPFA_LANE static void multiply(U32 a, uint32_t factor, U32& high, U32& low) {
    const __m512i m = set(factor);
    const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
    high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
    low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  }

  DPFA_LANE static U64 add64(U64 a, U64 b) { return _mm512_add_epi64(a, b); }
  DPFA_LANE static U64 sub64(U64 a, U64 b) { return _mm512_sub_epi64(a, b); }
  DPFA_LANE static U64 bit_and(U64 a, U64 b) { return _mm512_and_si512(a, b); }
  DPFA_LANE static U64 bit_or(U64 a, U64 b) { return _mm512_or_si512(a, b); }
  template <int kBits>
  DPFA_LANE static U64 shift_right64(U64 a) {
    return _mm512_srli_epi64(a, kBits);
  }
  DPFA_LANE static U64 as_bits(F64 a) { return _mm512_castpd_si512(a); }
  DPFA_LANE static F64 as_double(U64 a) { return _mm512_castsi512_pd(a); }
  DPFA_LANE static F64 from_u64(U64 a) { return _mm512_cvtepu64_pd(a); }  // to nearest

  DPFA_LANE static F64 add(F64 a, F64 b) { return _mm512_add_pd(a, b); }
  DPFA_LANE static F64 sub(F64 a, F64 b) { return _mm512_sub_pd(a, b); }
  DPFA_LANE static F64 mul(F64 a, F64 b) { return _mm512_mul_pd(a, b); }
  DPFA_LANE static F64 div(F64 a, F64 b) { return _mm512_div_pd(a, b); }
  DPFA_LANE static F64 fma(F64 a, F64 b, F64 c) { return _mm512_fmadd_pd(a, b, c); }
  DPFA_LANE static F64 sqrt(F64 a) { return _mm512_sqrt_pd(a); }
  DPFA_LANE static F64 flip_sign_by_bit63(F64 a, U64 bits) {
    return as_double(_mm512_xor_si512(as_bits(a), bit_and(bits, set64(uint64_t{1} << 63))));
  }
  // Bit 62 clear: a, set: b.
  DPFA_LANE static F64 select_by_bit62(U64 bits, F64 a, F64 b) {
    return _mm512_mask_blend_pd(_mm512_test_epi64_mask(bits, set64(uint64_t{1} << 62)), a, b);
  }
};

// Eight draws at once; the steps are those of alias_draw.h.
void gathered_draws(const uint64_t* table, int bits, const uint32_t* group, size_t levels, size_t count,
                    int64_t* x) {
  const __m128i shift = _mm_cvtsi32_si128(64 - bits);
  const __m512i places = Avx512::set64(~uint64_t{1} << bits >> bits);
  const __m512i shared = Avx512::set64(shared_bits(group[0], group[1]));
  const uint32_t *middle = group + 16, *words = group + 16 * blocks_before_high_words(levels);
  for (size_t d = 0; d < count; d += 8, middle += 4, words += 16) {
    const __m512i high = _mm512_loadu_si512(words);
    const __m512i row = _mm512_slli_epi64(_mm512_srl_epi64(high, shift), 1);
    const __m512i row_low = _mm512_i64gather_epi64(row, table, 8);
    const __m512i row_high = _mm512_i64gather_epi64(row, table + 1, 8);
    const __m512i halves = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(middle)));
    const __m512i low = _mm512_or_si512(_mm512_slli_epi64(halves, kSharedBits), shared);
    const __m512i place = _mm512_and_si512(high, places), border = _mm512_and_si512(row_high, places);
    const __mmask8 own = _mm512_cmplt_epu64_mask(place, border) |
                         (_mm512_cmpeq_epu64_mask(place, border) & _mm512_cmplt_epu64_mask(low, row_low));
    const __m512i value = _mm512_srl_epi64(_mm512_mask_blend_epi64(own, row_high, high), shift);
    const __mmask8 negative = _mm512_test_epi64_mask(high, Avx512::set64(1));
    _mm512_storeu_si512(x + d, _mm512_mask_sub_epi64(value, negative, _mm512_setzero_si512(), value));
  }
}

}  // namespace

constexpr Backend kAvx512Backend = backend_of<Avx512>(gathered_draws);

}  // namespace dpfa::random_internal
