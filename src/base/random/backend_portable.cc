// One block at a time in plain C++: the reference of the vector paths, and the path of other processors.
#include <bit>
#include <cmath>

#include "src/base/random/lanes.h"

namespace dpfa::random_internal {
namespace {

struct Portable {
  static constexpr size_t kLanes = 2;
  struct U32 {
    uint32_t v[2];
  };
  using U64 = uint64_t;
  using F64 = double;

  static U32 set(uint32_t v) { return {{v, v}}; }
  static F64 set(double v) { return v; }
  static U64 set64(uint64_t v) { return v; }
  static U64 load64(const uint64_t* p) { return *p; }
  static void store(double* p, F64 v) { *p = v; }
  // Word i of block `lane` is lane `lane` of x[i].
  static void store_blocks(uint32_t* out, const U32 (&x)[16]) {
    for (size_t block = 0; block < kLanes; ++block)
      for (size_t i = 0; i < 16; ++i) out[16 * block + i] = x[i].v[block];
  }

  static U32 natural_order() { return {{0, 1}}; }
  static U32 join_order() { return natural_order(); }
  static U64 join_low(U32 low, U32 high) { return low.v[0] | uint64_t{high.v[0]} << 32; }
  static U64 join_high(U32 low, U32 high) { return low.v[1] | uint64_t{high.v[1]} << 32; }

  static U32 add(U32 a, U32 b) { return {{a.v[0] + b.v[0], a.v[1] + b.v[1]}}; }
  static U32 bit_xor(U32 a, U32 b) { return {{a.v[0] ^ b.v[0], a.v[1] ^ b.v[1]}}; }
  template <int kBits>
  static U32 rotate(U32 a) {
    return {{std::rotl(a.v[0], kBits), std::rotl(a.v[1], kBits)}};
  }
  static void multiply(U32 a, uint32_t factor, U32& high, U32& low) {
    for (int i = 0; i < 2; ++i) {
      const uint64_t product = uint64_t{a.v[i]} * factor;
      high.v[i] = static_cast<uint32_t>(product >> 32);
      low.v[i] = static_cast<uint32_t>(product);
    }
  }

  static U64 add64(U64 a, U64 b) { return a + b; }
  static U64 sub64(U64 a, U64 b) { return a - b; }
  static U64 bit_and(U64 a, U64 b) { return a & b; }
  static U64 bit_or(U64 a, U64 b) { return a | b; }
  template <int kBits>
  static U64 shift_right64(U64 a) {
    return a >> kBits;
  }
  static U64 as_bits(F64 a) { return std::bit_cast<uint64_t>(a); }
  static F64 as_double(U64 a) { return std::bit_cast<double>(a); }
  static F64 from_u64(U64 a) { return static_cast<double>(a); }

  static F64 add(F64 a, F64 b) { return a + b; }
  static F64 sub(F64 a, F64 b) { return a - b; }
  static F64 mul(F64 a, F64 b) { return a * b; }
  static F64 div(F64 a, F64 b) { return a / b; }
  // Correctly rounded also where the processor has no fused multiply-add: the C library then computes it.
  static F64 fma(F64 a, F64 b, F64 c) { return std::fma(a, b, c); }
  static F64 sqrt(F64 a) { return std::sqrt(a); }
  static F64 flip_sign_by_bit63(F64 a, U64 bits) {
    return as_double(as_bits(a) ^ (bits & uint64_t{1} << 63));
  }
  static F64 select_by_bit62(U64 bits, F64 a, F64 b) { return bits >> 62 & 1 ? b : a; }
};

}  // namespace

constexpr Backend kPortableBackend = backend_of<Portable>();

}  // namespace dpfa::random_internal
