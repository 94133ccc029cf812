// Box-Muller and the loops over groups as templates over a set of vector operations V (lane_generators.h),
// compiled once per instruction set.
#pragma once

#include "src/base/random/alias_draw.h"
#include "src/base/random/lane_generators.h"
#include "src/base/random/twice.h"

namespace dpfa::random_internal {
namespace {

constexpr uint64_t kBitsOf2To52 = 0x4330000000000000;  // as a double; with a < 2^52 in the mantissa, 2^52 + a

template <class V, size_t kTerms>
DPFA_LANE typename V::F64 polynomial(typename V::F64 x, const double (&coefficients)[kTerms]) {
  typename V::F64 sum = V::set(coefficients[kTerms - 1]);
  for (size_t i = kTerms - 1; i-- > 0;) sum = V::fma(sum, x, V::set(coefficients[i]));
  return sum;
}

// -2 log(v 2^-75) for v in [1/2, 2^75], error below 2 ulp. v = 2^k m with m in [sqrt(1/2), sqrt(2)),
// s = (m-1)/(m+1), log m = 2 artanh s = s (2 + s^2 L(s^2)).
template <class V>
DPFA_LANE typename V::F64 minus_two_log(typename V::F64 v) {
  // -2 L, near-minimax for |s| <= 3 - 2 sqrt(2), relative error of the logarithm 2^-57.6.
  constexpr double kL[] = {-2 * 0.666666666666667,   -2 * 0.39999999999899444, -2 * 0.2857142862600327,
                           -2 * 0.22222211130259878, -2 * 0.18182889455674947, -2 * 0.15331710618210773,
                           -2 * 0.14616585424888623};
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
  // Upper 12 bits: k + 1 >= 0; the others: the mantissa of m relative to sqrt(1/2).
  const typename V::U64 offset = V::sub64(V::as_bits(v), V::set64(kSqrtHalf - (uint64_t{1} << 52)));
  const typename V::U64 raised = V::bit_or(V::template shift_right64<52>(offset), V::set64(kBitsOf2To52));
  const typename V::F64 k = V::sub(V::as_double(raised), V::set(0x1p52 + 1 + 75));
  const typename V::U64 mantissa = V::bit_and(offset, V::set64((uint64_t{1} << 52) - 1));
  const typename V::F64 m = V::as_double(V::add64(mantissa, V::set64(kSqrtHalf)));
  const typename V::F64 s = V::div(V::sub(m, V::set(1.0)), V::add(m, V::set(1.0)));
  const typename V::F64 z = V::mul(s, s);
  const typename V::F64 of_m = V::mul(s, V::fma(z, polynomial<V>(z, kL), V::set(-4.0)));
  return V::fma(k, V::set(-2 * 0.6931471805599453), of_m);
}

// One pair of independent standard normals per lane from 128 random bits, the words R and A.
//
// Radius: u = (R 2^11 + low 11 bits of A + 1/2) 2^-75: evenly spaced and exact below 2^-23, rounded to 53
// bits above. The smallest u is 2^-76, so the radius reaches 10.26. Angle: the top 2 bits of A choose the
// quadrant, the next 51 a t in (-1/2, 1/2), symmetric and never 0.
template <class V>
DPFA_LANE void box_muller(typename V::U64 radius, typename V::U64 angle, typename V::F64& x,
                          typename V::F64& y) {
  // sin(pi/2 t)/t - pi/2 and cos(pi/2 t) - 1, divided by t^2, near-minimax for |t| <= 1/2, error below 2^-52.
  constexpr double kSin[] = {-0.6459640975062462,    0.07969262624614423,     -0.004681754134254207,
                             0.00016044116661409423, -3.5987029509735105e-06, 5.642225369163528e-08};
  constexpr double kCos[] = {-1.233700550136169,    0.2536695079008304,      -0.02086348075319688,
                             0.0009192601014426249, -2.5200703761965414e-05, 4.6632053886903437e-07};
  constexpr uint64_t kOneAndLowestBit = 0x3FF0000000000001;
  const typename V::U64 low = V::bit_or(V::bit_and(angle, V::set64(0x7FF)), V::set64(kBitsOf2To52));
  const typename V::F64 tail = V::sub(V::as_double(low), V::set(0x1p52 - 0.5));
  const typename V::F64 r = V::sqrt(minus_two_log<V>(V::fma(V::from_u64(radius), V::set(0x1p11), tail)));

  // 52 mantissa bits of a number in [1, 2), the last of them set: the middle of one of 2^51 intervals.
  const typename V::U64 fraction =
      V::bit_and(V::template shift_right64<10>(angle), V::set64((uint64_t{1} << 52) - 1));
  const typename V::F64 t =
      V::sub(V::as_double(V::bit_or(fraction, V::set64(kOneAndLowestBit))), V::set(1.5));
  const typename V::F64 w = V::mul(t, t);
  const typename V::F64 sine = V::mul(t, V::fma(w, polynomial<V>(w, kSin), V::set(1.5707963267948966)));
  const typename V::F64 cosine = V::fma(w, polynomial<V>(w, kCos), V::set(1.0));
  // Quadrants: (c, s), (s, c), (-c, -s), (-s, -c).
  const typename V::F64 signed_r = V::flip_sign_by_bit63(r, angle);
  x = V::mul(signed_r, V::select_by_bit62(angle, cosine, sine));
  y = V::mul(signed_r, V::select_by_bit62(angle, sine, cosine));
}

// Four words of every lane to 2 kLanes normals: x at out[lane], y at out[16 + lane].
template <class V>
DPFA_LANE void emit(const typename V::U32* w, double* out) {
  constexpr size_t kHalf = V::kLanes / 2;
  typename Twice<V>::F64 x, y;
  box_muller<Twice<V>>({V::join_low(w[0], w[1]), V::join_high(w[0], w[1])},
                       {V::join_low(w[2], w[3]), V::join_high(w[2], w[3])}, x, y);
  V::store(out, x.a);
  V::store(out + kGroupBlocks, y.a);
  V::store(out + kHalf, x.b);
  V::store(out + kGroupBlocks + kHalf, y.b);
}

template <class V>
void chacha20_normals(const Stream& stream, uint64_t first_group, size_t groups, double* out) {
  ChaCha20Input<V> input(stream);
  for (size_t g = 0; g < groups; ++g, out += kGroupNormals)
    for (size_t lane = 0; lane < kGroupBlocks; lane += V::kLanes) {
      input.set_block((first_group + g) * kGroupBlocks + lane, V::join_order());
      typename V::U32 x[16];
      chacha20<V>(input, x);
      for (size_t pair = 0; pair < 4; ++pair) emit<V>(x + 4 * pair, out + 2 * kGroupBlocks * pair + lane);
    }
}

template <class V>
void philox_normals(const Stream& stream, uint64_t first_group, size_t groups, double* out) {
  for (size_t g = 0; g < groups; ++g, out += kGroupNormals)
    for (size_t pair = 0; pair < 4; ++pair)
      for (size_t lane = 0; lane < kGroupBlocks; lane += V::kLanes) {
        typename V::U32 w[4];
        philox<V>(stream, ((first_group + g) * 4 + pair) * kGroupBlocks + lane, V::join_order(), w);
        emit<V>(w, out + 2 * kGroupBlocks * pair + lane);
      }
}

template <class V>
void chacha20_words(const Stream& stream, uint64_t first_group, size_t groups, uint32_t* out) {
  ChaCha20Input<V> input(stream);
  for (size_t g = 0; g < groups; ++g)
    for (size_t lane = 0; lane < kGroupBlocks; lane += V::kLanes, out += 16 * V::kLanes) {
      input.set_block((first_group + g) * kGroupBlocks + lane, V::natural_order());
      typename V::U32 x[16];
      chacha20<V>(input, x);
      V::store_blocks(out, x);
    }
}

template <class V>
void box_muller_array(const uint64_t* radius, const uint64_t* angle, size_t count, double* x, double* y) {
  for (size_t i = 0; i < count; i += V::kLanes / 2) {
    typename V::F64 first, second;
    box_muller<V>(V::load64(radius + i), V::load64(angle + i), first, second);
    V::store(x + i, first);
    V::store(y + i, second);
  }
}

// One draw after the other: a set of operations may bring its own.
template <class V>
void discrete_draws(const uint64_t* table, int bits, const uint32_t* group, size_t levels, size_t count,
                    int64_t* x) {
  const uint32_t* high = group + 16 * blocks_before_high_words(levels);
  const uint64_t shared = shared_bits(group[0], group[1]);
  for (size_t d = 0; d < count; ++d, high += 2)
    x[d] = alias_draw(table, bits, low_bits(shared, group[16 + d / 2] >> 16 * (d % 2) & 0xFFFF),
                      high[0] | uint64_t{high[1]} << 32);
}

template <class V>
constexpr Backend backend_of(decltype(Backend::discrete_draws) draws = discrete_draws<V>) {
  return {chacha20_words<V>, chacha20_normals<V>, philox_normals<V>, box_muller_array<V>, draws};
}

}  // namespace
}  // namespace dpfa::random_internal
