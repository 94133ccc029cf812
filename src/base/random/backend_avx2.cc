#include <immintrin.h>

#include "src/base/random/chacha20_rounds_avx2.h"
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
  DPFA_LANE static void chacha20_rounds(const U32 (&input)[16], int double_rounds, U32 (&x)[16]) {
    chacha20_rounds_avx2(input, double_rounds, x);
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

__m256i load_two(const __m128i* low, const __m128i* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);
}

// Four draws at once; the steps are those of alias_draw.h. A row is one load of 16 bytes: gathers are slower.
void vector_draws(const uint64_t* table, int bits, const uint32_t* group, size_t levels, size_t count,
                  int64_t* x) {
  const __m128i shift = _mm_cvtsi32_si128(64 - bits);
  const __m256i places = Avx2::set64(~uint64_t{1} << bits >> bits), one = Avx2::set64(1);
  const __m256i flip = Avx2::set64(uint64_t{1} << 63);  // comparisons are signed; places are below 2^63
  const uint64_t shared = shared_bits(group[0], group[1]);
  const __m256i flipped_shared = Avx2::set64(shared ^ uint64_t{1} << 63);
  const uint32_t *middle = group + 16, *words = group + 16 * blocks_before_high_words(levels);
  for (size_t d = 0; d < count; d += 4, middle += 2, words += 8) {
    const auto row_of = [&](size_t draw) {
      const uint64_t high = words[2 * draw] | uint64_t{words[2 * draw + 1]} << 32;
      return reinterpret_cast<const __m128i*>(table + 2 * (high >> (64 - bits)));
    };
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
    const __m256i rows02 = load_two(row_of(0), row_of(2)), rows13 = load_two(row_of(1), row_of(3));
    const __m256i row_low = _mm256_unpacklo_epi64(rows02, rows13);
    const __m256i row_high = _mm256_unpackhi_epi64(rows02, rows13);
    const __m256i halves = _mm256_cvtepu16_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(middle)));
    const __m256i flipped_low = _mm256_xor_si256(_mm256_slli_epi64(halves, kSharedBits), flipped_shared);
    const __m256i place = _mm256_and_si256(high, places), border = _mm256_and_si256(row_high, places);
    const __m256i below = _mm256_cmpgt_epi64(_mm256_xor_si256(row_low, flip), flipped_low);
    const __m256i tie = _mm256_and_si256(_mm256_cmpeq_epi64(place, border), below);
    const __m256i own = _mm256_or_si256(_mm256_cmpgt_epi64(border, place), tie);
    const __m256i value = _mm256_srl_epi64(_mm256_blendv_epi8(row_high, high, own), shift);
    const __m256i sign = _mm256_sub_epi64(_mm256_setzero_si256(), _mm256_and_si256(high, one));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x + d),
                        _mm256_sub_epi64(_mm256_xor_si256(value, sign), sign));
  }
}

}  // namespace

constexpr Backend kAvx2Backend = backend_of<Avx2>(vector_draws);

}  // namespace dpfa::random_internal
