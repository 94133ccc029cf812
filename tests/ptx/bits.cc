// Bit fields, permutations, counts: PTX ISA 9.0, sections 9.7.1 (popc, clz, bfe, bfi), 9.7.8 (lop3,
// shf) and 9.7.9.7 (prmt).
#include <algorithm>

#include "tests/ptx/lanes.h"

namespace dpfa::ptx {
namespace {

PTX_OP1(PopCount, __builtin_popcountll(PTX_UNSIGNED(T)(a)))
PTX_OP1(LeadingZeros, a == 0 ? 8 * sizeof(T) : __builtin_clzll(PTX_UNSIGNED(T)(a)) - (64 - 8 * sizeof(T)))

template <typename T>
void bit_field_insert(Warp& w, const Instruction& i, uint32_t mask) {
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const uint32_t at = w.at<uint32_t>(i.c)[l] & 0xFF, count = w.at<uint32_t>(i.e)[l] & 0xFF,
                   bits = 8 * sizeof(T);
    const T ones = count >= bits ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << count) - 1);
    const T field = at >= bits ? T{0} : static_cast<T>(ones << at);
    const T a = at >= bits ? T{0} : static_cast<T>(w.at<T>(i.a)[l] << at);
    out[l] = static_cast<T>((w.at<T>(i.b)[l] & ~field) | (a & field));
  }
  w.write(i.d, out, mask);
}
template <typename T>
void bit_field_extract(Warp& w, const Instruction& i, uint32_t mask) {
  using U = std::make_unsigned_t<T>;
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const uint32_t at = w.at<uint32_t>(i.b)[l] & 0xFF, count = w.at<uint32_t>(i.c)[l] & 0xFF;
    constexpr uint32_t bits = 8 * sizeof(T);
    const U a = static_cast<U>(w.at<T>(i.a)[l]);
    const bool sign = std::is_signed_v<T> && count > 0 && (a >> std::min(at + count - 1, bits - 1) & 1) != 0;
    U v = 0;
    for (uint32_t k = 0; k < bits; ++k)
      if (k < count && at + k < bits ? (a >> (at + k) & 1) != 0 : sign) v |= U{1} << k;
    out[l] = static_cast<T>(v);
  }
  w.write(i.d, out, mask);
}
template <bool kLeft>
void funnel_shift(Warp& w, const Instruction& i, uint32_t mask) {
  uint32_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const uint64_t both = static_cast<uint64_t>(w.at<uint32_t>(i.b)[l]) << 32 | w.at<uint32_t>(i.a)[l];
    const uint32_t raw = w.at<uint32_t>(i.c)[l], n = i.offset != 0 ? std::min(raw, 32u) : raw & 31;
    out[l] = kLeft ? static_cast<uint32_t>(both << n >> 32) : static_cast<uint32_t>(both >> n);
  }
  w.write(i.d, out, mask);
}
void permute(Warp& w, const Instruction& i, uint32_t mask) {
  uint32_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const uint64_t both = static_cast<uint64_t>(w.at<uint32_t>(i.b)[l]) << 32 | w.at<uint32_t>(i.a)[l];
    const uint32_t selector = w.at<uint32_t>(i.c)[l];
    out[l] = 0;
    for (int k = 0; k < 4; ++k) {
      const uint32_t s = selector >> (4 * k) & 15;
      uint32_t byte = static_cast<uint32_t>(both >> (8 * (s & 7))) & 0xFF;
      if ((s & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
      out[l] |= byte << (8 * k);
    }
  }
  w.write(i.d, out, mask);
}
void logic3(Warp& w, const Instruction& i, uint32_t mask) {
  uint32_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const uint32_t a = w.at<uint32_t>(i.a)[l], b = w.at<uint32_t>(i.b)[l], c = w.at<uint32_t>(i.c)[l];
    out[l] = 0;
    for (int k = 0; k < 8; ++k)
      if ((i.offset >> k & 1) != 0)
        out[l] |= ((k & 4) != 0 ? a : ~a) & ((k & 2) != 0 ? b : ~b) & ((k & 1) != 0 ? c : ~c);
  }
  w.write(i.d, out, mask);
}

// The result has 32 bits whatever the operand has.
bool emit_count(Decoder& d, const OfIntegers& all, Type t) {
  Instruction& i = d.instruction;
  const uint8_t width = bytes_of(t);
  i.a = d.source(1, width);
  if (width == 4) {
    d.emit(handler_of(all, t));
    return true;
  }
  i.d = d.make_register(8);
  d.emit(handler_of(all, t));
  Operand from;
  from.kind = Kind::kRegister, from.width = 8, from.place = i.d;
  Decoder cut = {d.kernel, {"mov", "b32"}, {d.operands[0], from}, {}};
  cut.instruction.line = i.line, cut.instruction.guard = i.guard,
  cut.instruction.guard_negated = i.guard_negated;
  return cut.decode();
}

}  // namespace

bool emit_bits(Decoder& d, Type t) {
  const std::string& op = d.parts[0];
  Instruction& i = d.instruction;
  const uint8_t width = bytes_of(t);
  i.d = d.destination(0);
  if (op == "bfi") {
    i.a = d.source(1, width), i.b = d.source(2, width), i.c = d.source(3, 4), i.e = d.source(4, 4);
    d.emit(width == 4 ? bit_field_insert<uint32_t> : bit_field_insert<uint64_t>);
  } else if (op == "bfe") {
    i.a = d.source(1, width), i.b = d.source(2, 4), i.c = d.source(3, 4);
    d.emit(t == Type::kU32   ? bit_field_extract<uint32_t>
           : t == Type::kS32 ? bit_field_extract<int32_t>
           : t == Type::kU64 ? bit_field_extract<uint64_t>
                             : bit_field_extract<int64_t>);
  } else if (op == "shf") {
    i.a = d.source(1, 4), i.b = d.source(2, 4), i.c = d.source(3, 4);
    i.offset = d.has("clamp") ? 1 : 0;
    d.emit(d.has("l") ? funnel_shift<true> : funnel_shift<false>);
  } else if (op == "prmt") {
    if (d.parts.size() != 2) return false;
    i.a = d.source(1, 4), i.b = d.source(2, 4), i.c = d.source(3, 4);
    d.emit(permute);
  } else if (op == "lop3") {
    i.a = d.source(1, 4), i.b = d.source(2, 4), i.c = d.source(3, 4);
    i.offset = static_cast<int64_t>(d.operands.at(4).value);
    d.emit(logic3);
  } else if (op == "popc" || op == "clz") {
    return emit_count(d, op == "popc" ? PTX_INTEGERS(unary, PopCount) : PTX_INTEGERS(unary, LeadingZeros), t);
  } else {
    return false;
  }
  return true;
}

}  // namespace dpfa::ptx
