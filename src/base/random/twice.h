// The operations on 64-bit lanes of V (lane_generators.h) on two vectors at a time: two independent chains of
// arithmetic, and constants that are loaded once for both. The bits are those of V.
#pragma once

#include "src/base/random/lane_generators.h"

namespace dpfa::random_internal {
namespace {

template <class V>
struct Twice {
  struct U64 {
    typename V::U64 a, b;
  };
  struct F64 {
    typename V::F64 a, b;
  };
  DPFA_LANE static F64 set(double v) { return {V::set(v), V::set(v)}; }
  DPFA_LANE static U64 set64(uint64_t v) { return {V::set64(v), V::set64(v)}; }
  DPFA_LANE static U64 add64(U64 x, U64 y) { return {V::add64(x.a, y.a), V::add64(x.b, y.b)}; }
  DPFA_LANE static U64 sub64(U64 x, U64 y) { return {V::sub64(x.a, y.a), V::sub64(x.b, y.b)}; }
  DPFA_LANE static U64 bit_and(U64 x, U64 y) { return {V::bit_and(x.a, y.a), V::bit_and(x.b, y.b)}; }
  DPFA_LANE static U64 bit_or(U64 x, U64 y) { return {V::bit_or(x.a, y.a), V::bit_or(x.b, y.b)}; }
  template <int kBits>
  DPFA_LANE static U64 shift_right64(U64 x) {
    return {V::template shift_right64<kBits>(x.a), V::template shift_right64<kBits>(x.b)};
  }
  DPFA_LANE static U64 as_bits(F64 x) { return {V::as_bits(x.a), V::as_bits(x.b)}; }
  DPFA_LANE static F64 as_double(U64 x) { return {V::as_double(x.a), V::as_double(x.b)}; }
  DPFA_LANE static F64 from_u64(U64 x) { return {V::from_u64(x.a), V::from_u64(x.b)}; }
  DPFA_LANE static F64 add(F64 x, F64 y) { return {V::add(x.a, y.a), V::add(x.b, y.b)}; }
  DPFA_LANE static F64 sub(F64 x, F64 y) { return {V::sub(x.a, y.a), V::sub(x.b, y.b)}; }
  DPFA_LANE static F64 mul(F64 x, F64 y) { return {V::mul(x.a, y.a), V::mul(x.b, y.b)}; }
  DPFA_LANE static F64 div(F64 x, F64 y) { return {V::div(x.a, y.a), V::div(x.b, y.b)}; }
  DPFA_LANE static F64 fma(F64 x, F64 y, F64 z) { return {V::fma(x.a, y.a, z.a), V::fma(x.b, y.b, z.b)}; }
  DPFA_LANE static F64 sqrt(F64 x) { return {V::sqrt(x.a), V::sqrt(x.b)}; }
  DPFA_LANE static F64 flip_sign_by_bit63(F64 x, U64 bits) {
    return {V::flip_sign_by_bit63(x.a, bits.a), V::flip_sign_by_bit63(x.b, bits.b)};
  }
  DPFA_LANE static F64 select_by_bit62(U64 bits, F64 x, F64 y) {
    return {V::select_by_bit62(bits.a, x.a, y.a), V::select_by_bit62(bits.b, x.b, y.b)};
  }
};

}  // namespace
}  // namespace dpfa::random_internal
