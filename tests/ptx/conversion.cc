// mov, cvta, cvt: PTX ISA 9.0, sections 9.7.9.3, 9.7.9.4, 9.7.9.20 and 9.7.9.21.
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "tests/ptx/decoder.h"

namespace dpfa::ptx {

void read_raw(const Warp& w, uint32_t place, uint8_t width, uint64_t (&values)[kLanes]) {
  for (int l = 0; l < kLanes; ++l)
    values[l] = width == 8   ? w.at<uint64_t>(place)[l]
                : width == 4 ? w.at<uint32_t>(place)[l]
                : width == 2 ? w.at<uint16_t>(place)[l]
                             : w.at<uint8_t>(place)[l];
}
void write_raw(Warp& w, uint32_t place, uint8_t width, const uint64_t (&values)[kLanes], uint32_t mask) {
  for_lanes(mask, [&](int l) {
    if (width == 8) w.at<uint64_t>(place)[l] = values[l];
    if (width == 4) w.at<uint32_t>(place)[l] = static_cast<uint32_t>(values[l]);
    if (width == 2) w.at<uint16_t>(place)[l] = static_cast<uint16_t>(values[l]);
    if (width == 1) w.at<uint8_t>(place)[l] = static_cast<uint8_t>(values[l]);
  });
}

namespace {

enum Rounding { kNearest, kZero, kDown, kUp };

struct Bfloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <typename T>
T from_raw(uint64_t raw) {
  if constexpr (std::is_same_v<T, float>)
    return std::bit_cast<float>(static_cast<uint32_t>(raw));
  else if constexpr (std::is_same_v<T, double>)
    return std::bit_cast<double>(raw);
  else
    return static_cast<T>(raw);
}
template <typename T>
uint64_t to_raw(T v) {
  if constexpr (std::is_same_v<T, float>)
    return std::bit_cast<uint32_t>(v);
  else if constexpr (std::is_same_v<T, double>)
    return std::bit_cast<uint64_t>(v);
  else
    return static_cast<uint64_t>(static_cast<int64_t>(v));  // a wider register: by the sign of T
}

template <typename T>
T to_integral(T v, int mode) {
  return mode == kNearest ? std::nearbyint(v)
         : mode == kZero  ? std::trunc(v)
         : mode == kDown  ? std::floor(v)
                          : std::ceil(v);
}

template <typename S, typename D>
D converted(S s, int mode) {
  constexpr bool from_real = std::is_floating_point_v<S>, to_real = std::is_floating_point_v<D>;
  if constexpr (!from_real && !to_real) {
    return static_cast<D>(s);
  } else if constexpr (from_real && !to_real) {
    const S v = to_integral(s, mode);
    if (v != v) return sizeof(D) == 8 ? static_cast<D>(uint64_t{1} << 63) : D{0};
    constexpr int bits = std::numeric_limits<D>::digits;
    if (v >= std::ldexp(S{1}, bits)) return std::numeric_limits<D>::max();
    if (v <= (std::is_signed_v<D> ? -std::ldexp(S{1}, bits) : S{0})) return std::numeric_limits<D>::min();
    return static_cast<D>(v);
  } else if constexpr (std::is_same_v<S, D>) {
    return mode >= 16 ? to_integral(s, mode - 16) : s;
  } else if constexpr (from_real && sizeof(S) < sizeof(D)) {
    return static_cast<D>(s);
  } else if constexpr (!from_real && sizeof(S) < 4) {
    return static_cast<D>(s);
  } else {  // a rounding: from double, or from an integer
    D v = static_cast<D>(s);
    if (mode == kNearest || v != v || std::isinf(static_cast<double>(s))) return v;
    const __float128 exact = s, got = v;
    const D inf = std::numeric_limits<D>::infinity();
    if (mode == kUp && got < exact) v = std::nextafter(v, inf);
    if (mode == kDown && got > exact) v = std::nextafter(v, -inf);
    if (mode == kZero && (exact < 0 ? got < exact : got > exact)) v = std::nextafter(v, D{0});
    return v;
  }
}

template <typename S, typename D>
void convert(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t raw[kLanes];
  if (i.source_width == sizeof(S) && i.width == sizeof(D)) {
    D out[kLanes];
    const S* a = w.at<S>(i.a);
    const int mode = static_cast<int>(i.offset);
    for (int l = 0; l < kLanes; ++l) out[l] = converted<S, D>(a[l], mode);
    w.write(i.d, out, mask);
    return;
  }
  read_raw(w, i.a, i.source_width, raw);
  for (int l = 0; l < kLanes; ++l)
    raw[l] = to_raw<D>(converted<S, D>(from_raw<S>(raw[l]), static_cast<int>(i.offset)));
  write_raw(w, i.d, i.width, raw, mask);
}

template <typename S>
Handler to(const std::string& t) {
  if (t == "u8") return convert<S, uint8_t>;
  if (t == "s8") return convert<S, int8_t>;
  if (t == "u16") return convert<S, uint16_t>;
  if (t == "s16") return convert<S, int16_t>;
  if (t == "u32") return convert<S, uint32_t>;
  if (t == "s32") return convert<S, int32_t>;
  if (t == "u64") return convert<S, uint64_t>;
  if (t == "s64") return convert<S, int64_t>;
  if (t == "f32") return convert<S, float>;
  if (t == "f64") return convert<S, double>;
  return nullptr;
}
Handler conversion(const std::string& from, const std::string& t) {
  if (from == "u8") return to<uint8_t>(t);
  if (from == "s8") return to<int8_t>(t);
  if (from == "u16") return to<uint16_t>(t);
  if (from == "s16") return to<int16_t>(t);
  if (from == "u32") return to<uint32_t>(t);
  if (from == "s32") return to<int32_t>(t);
  if (from == "u64") return to<uint64_t>(t);
  if (from == "s64") return to<int64_t>(t);
  if (from == "f32") return to<float>(t);
  if (from == "f64") return to<double>(t);
  return nullptr;
}

uint16_t nearest_bfloat16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (v != v) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
void to_bfloat16(Warp& w, const Instruction& i, uint32_t mask) {
  uint16_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = nearest_bfloat16(w.at<float>(i.a)[l]);
  w.write(i.d, out, mask);
}
// The first operand becomes the upper half.
void to_two_bfloat16(Warp& w, const Instruction& i, uint32_t mask) {
  uint32_t out[kLanes];
  for (int l = 0; l < kLanes; ++l)
    out[l] = static_cast<uint32_t>(nearest_bfloat16(w.at<float>(i.a)[l])) << 16 |
             nearest_bfloat16(w.at<float>(i.b)[l]);
  w.write(i.d, out, mask);
}
void from_bfloat16(Warp& w, const Instruction& i, uint32_t mask) {
  uint32_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = static_cast<uint32_t>(w.at<uint16_t>(i.a)[l]) << 16;
  w.write(i.d, out, mask);
}

template <typename T>
void copy(Warp& w, const Instruction& i, uint32_t mask) {
  T out[kLanes];
  std::memcpy(out, w.at<T>(i.a), sizeof(out));
  w.write(i.d, out, mask);
}
void copy_other(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t raw[kLanes];
  read_raw(w, i.a, i.source_width, raw);
  write_raw(w, i.d, i.width, raw, mask);
}
void pack(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t raw[kLanes], out[kLanes] = {};
  const auto& list = w.block->kernel->lists[i.list];
  for (size_t k = 0; k < list.size(); ++k) {
    read_raw(w, list[k], i.source_width, raw);
    for (int l = 0; l < kLanes; ++l) out[l] |= raw[l] << (8 * i.source_width * k);
  }
  write_raw(w, i.d, i.width, out, mask);
}
void unpack(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t raw[kLanes];
  const auto& list = w.block->kernel->lists[i.list];
  read_raw(w, i.a, i.source_width, raw);
  for (const uint32_t place : list) {
    if (place != kNone) write_raw(w, place, i.width, raw, mask);
    for (int l = 0; l < kLanes; ++l) raw[l] >>= 8 * i.width;
  }
}

bool emit_mov(Decoder& d) {
  Instruction& i = d.instruction;
  const std::string& type = d.parts.back();
  const uint8_t bytes = type == "pred"                                    ? 1
                        : type == "b16" || type == "u16" || type == "s16" ? 2
                        : type.find("64") != std::string::npos            ? 8
                                                                          : 4;
  const Operand &to_o = d.operands.at(0), &from_o = d.operands.at(1);
  if (to_o.kind == Kind::kVector) {
    i.a = d.source(1, bytes), i.source_width = bytes;
    i.width = static_cast<uint8_t>(bytes / to_o.list.size());
    std::vector<uint32_t> list;
    for (const Operand& o : to_o.list) list.push_back(o.kind == Kind::kRegister ? o.place : kNone);
    i.list = d.add_list(list);
    d.emit(unpack);
    return true;
  }
  i.d = d.destination(0);
  i.width = to_o.width;
  if (from_o.kind == Kind::kVector) {
    i.source_width = static_cast<uint8_t>(bytes / from_o.list.size());
    std::vector<uint32_t> list;
    for (const Operand& o : from_o.list) list.push_back(d.source(o, i.source_width));
    i.list = d.add_list(list);
    d.emit(pack);
    return true;
  }
  const uint8_t width = from_o.kind == Kind::kImmediate ? to_o.width : from_o.width;
  i.a = d.source(1, width);
  i.source_width = width;
  d.emit(width != to_o.width ? copy_other
         : width == 8        ? copy<uint64_t>
         : width == 4        ? copy<uint32_t>
         : width == 2        ? copy<uint16_t>
                             : copy<uint8_t>);
  return true;
}

void add_window(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t raw[kLanes];
  read_raw(w, i.a, i.source_width, raw);
  for_lanes(mask, [&](int l) {
    if (i.offset < 0 && raw[l] >> 56 != static_cast<uint64_t>(-i.offset) >> 56)
      fault("an address is not of the space that cvta.to names: " + place_of(w, i, l));
    raw[l] += static_cast<uint64_t>(i.offset);
  });
  write_raw(w, i.d, i.width, raw, mask);
}

bool emit_cvta(Decoder& d) {
  Instruction& i = d.instruction;
  const uint64_t window = d.has("shared") || d.has("shared::cta") ? kSharedWindow
                          : d.has("local")                        ? kLocalWindow
                                                                  : 0;
  if (d.has("param")) return false;
  i.d = d.destination(0), i.width = d.operands[0].width;
  const uint8_t width = d.operands[1].kind == Kind::kImmediate ? 8 : d.operands[1].width;
  i.a = d.source(1, width), i.source_width = width;
  i.offset = d.has("to") ? -static_cast<int64_t>(window) : static_cast<int64_t>(window);
  d.emit(add_window);
  return true;
}

}  // namespace

bool decode_conversion(Decoder& d) {
  const std::string& op = d.parts[0];
  Instruction& i = d.instruction;
  if (op == "mov") return emit_mov(d);
  if (op == "cvta") return emit_cvta(d);
  if (op != "cvt") return false;
  const std::string &from = d.parts.back(), &type = d.parts[d.parts.size() - 2];
  if (d.has("sat") || d.has("ftz") || d.has("relu")) return false;
  i.d = d.destination(0), i.width = d.operands[0].width;
  if (type == "bf16" && from == "f32" && d.has("rn")) {
    i.a = d.source(1, 4);
    d.emit(to_bfloat16);
    return i.width == 2;
  }
  if (type == "bf16x2" && from == "f32" && d.has("rn")) {
    i.a = d.source(1, 4), i.b = d.source(2, 4);
    d.emit(to_two_bfloat16);
    return true;
  }
  if (type == "f32" && from == "bf16") {
    i.a = d.source(1, 2);
    d.emit(from_bfloat16);
    return true;
  }
  const Handler h = conversion(from, type);
  if (h == nullptr) return false;
  static const std::map<std::string, int> natural = {{"u8", 1},  {"s8", 1},  {"u16", 2}, {"s16", 2},
                                                     {"u32", 4}, {"s32", 4}, {"f32", 4}, {"u64", 8},
                                                     {"s64", 8}, {"f64", 8}};
  i.source_width =
      d.operands[1].kind == Kind::kImmediate ? static_cast<uint8_t>(natural.at(from)) : d.operands[1].width;
  i.a = d.source(1, i.source_width);
  const bool real_to_same = from == type;
  i.offset = d.has("rz") || d.has("rzi")   ? kZero
             : d.has("rm") || d.has("rmi") ? kDown
             : d.has("rp") || d.has("rpi") ? kUp
                                           : kNearest;
  if (real_to_same && (d.has("rni") || d.has("rzi") || d.has("rmi") || d.has("rpi"))) i.offset += 16;
  d.emit(h);
  return true;
}

}  // namespace dpfa::ptx
