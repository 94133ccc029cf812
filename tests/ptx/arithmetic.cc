// Integer arithmetic, logic, selections: PTX ISA 9.0, sections 9.7.1 (integers), 9.7.2 (carries), 9.7.6
// (selp) and 9.7.8 (logic, shifts).
#include <map>
#include <set>

#include "tests/ptx/lanes.h"

namespace dpfa::ptx {
namespace {

PTX_OP2(Add, PTX_UNSIGNED(T)(a) + PTX_UNSIGNED(T)(b))
PTX_OP2(Sub, PTX_UNSIGNED(T)(a) - PTX_UNSIGNED(T)(b))
PTX_OP2(And, a& b)
PTX_OP2(Or, a | b)
PTX_OP2(Xor, a ^ b)
PTX_OP1(Not, ~a)
PTX_OP1(LogicalNot, a ^ 1)
PTX_OP1(Neg, 0 - PTX_UNSIGNED(T)(a))
PTX_OP1(Abs, a < 0 ? 0 - PTX_UNSIGNED(T)(a) : PTX_UNSIGNED(T)(a))
PTX_OP2(Min, a < b ? a : b)
PTX_OP2(Max, a > b ? a : b)
#define PTX_SHIFT(Name, expression)            \
  struct Name {                                \
    template <typename T>                      \
    static T of(T a, uint32_t b) {             \
      constexpr uint32_t bits = 8 * sizeof(T); \
      return static_cast<T>(expression);       \
    }                                          \
  };
PTX_SHIFT(ShiftLeft, b >= bits ? T{0} : PTX_UNSIGNED(T)(a) << (b % bits))
PTX_SHIFT(ShiftRight, b >= bits ? (a < 0 ? T(-1) : T{0}) : a >> (b % bits))

struct MulLow {
  template <typename T>
  static T of(T a, T b) {
    if constexpr (sizeof(T) == 2)
      return static_cast<T>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
    else
      return static_cast<T>(PTX_UNSIGNED(T)(a) * PTX_UNSIGNED(T)(b));
  }
};
struct MulHigh {
  template <typename T>
  static T of(T a, T b) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>(Wide{a} * Wide{b} >> (8 * sizeof(T)));
  }
};
struct MadLow {
  template <typename T>
  static T of(T a, T b, T c) {
    return Add::of<T>(MulLow::of<T>(a, b), c);
  }
};
struct MadHigh {
  template <typename T>
  static T of(T a, T b, T c) {
    return Add::of<T>(MulHigh::of<T>(a, b), c);
  }
};
struct Div {
  template <typename T>
  static T of(T a, T b) {
    if (b == 0) return static_cast<T>(-1);  // unspecified
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return Neg::of<T>(a);
    return static_cast<T>(a / b);
  }
};
struct Rem {
  template <typename T>
  static T of(T a, T b) {
    if (b == 0) return a;  // unspecified
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return 0;
    return static_cast<T>(a % b);
  }
};

// d is twice as wide as a and b.
template <typename T, typename Wide, bool kAdd>
void wide(Warp& w, const Instruction& i, uint32_t mask) {
  const T *a = w.at<T>(i.a), *b = w.at<T>(i.b);
  Wide out[kLanes];
  using U = std::make_unsigned_t<Wide>;
  for (int l = 0; l < kLanes; ++l) {
    U v = static_cast<U>(Wide{a[l]}) * static_cast<U>(Wide{b[l]});
    if constexpr (kAdd) v += static_cast<U>(w.at<Wide>(i.c)[l]);
    out[l] = static_cast<Wide>(v);
  }
  w.write(i.d, out, mask);
}
template <typename T>
void select(Warp& w, const Instruction& i, uint32_t mask) {
  const T *a = w.at<T>(i.a), *b = w.at<T>(i.b);
  const uint8_t* p = w.at<uint8_t>(i.c);
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = p[l] != 0 ? a[l] : b[l];
  w.write(i.d, out, mask);
}

bool emit_carry(Decoder& d, Type t) {
  const std::string& op = d.parts[0];
  Instruction& i = d.instruction;
  const uint8_t width = bytes_of(t);
  i.d = d.destination(0), i.a = d.source(1, width), i.b = d.source(2, width);
  if (op == "mad" || op == "madc") return false;
  i.offset = (op.back() == 'c' ? 1 : 0) | (d.has("cc") ? 2 : 0) | (op[0] == 's' ? 4 : 0);
  const auto run = []<typename T>(Warp& w, const Instruction& in, uint32_t mask) {
    T out[kLanes];
    for_lanes(mask, [&](int l) {
      unsigned __int128 b = w.at<T>(in.b)[l];
      const bool minus = (in.offset & 4) != 0;
      const unsigned __int128 carry = (in.offset & 1) != 0 && w.carry[l] ? 1 : 0;
      const unsigned __int128 v = minus ? w.at<T>(in.a)[l] - b - carry : w.at<T>(in.a)[l] + b + carry;
      out[l] = static_cast<T>(v);
      if ((in.offset & 2) != 0) w.carry[l] = (v >> (8 * sizeof(T)) & 1) != 0;
    });
    w.write(in.d, out, mask);
  };
  static const auto call = run;
  if (width == 4)
    d.emit([](Warp& w, const Instruction& in, uint32_t mask) { call.operator()<uint32_t>(w, in, mask); });
  else
    d.emit([](Warp& w, const Instruction& in, uint32_t mask) { call.operator()<uint64_t>(w, in, mask); });
  return true;
}

bool emit_multiply(Decoder& d, Type t) {
  Instruction& i = d.instruction;
  const bool add = d.parts[0] == "mad";
  const uint8_t width = bytes_of(t);
  i.d = d.destination(0), i.a = d.source(1, width), i.b = d.source(2, width);
  if (d.has("wide")) {
    if (add) i.c = d.source(3, static_cast<uint8_t>(2 * width));
    Handler h = nullptr;
    if (t == Type::kU16) h = add ? wide<uint16_t, uint32_t, true> : wide<uint16_t, uint32_t, false>;
    if (t == Type::kS16) h = add ? wide<int16_t, int32_t, true> : wide<int16_t, int32_t, false>;
    if (t == Type::kU32) h = add ? wide<uint32_t, uint64_t, true> : wide<uint32_t, uint64_t, false>;
    if (t == Type::kS32) h = add ? wide<int32_t, int64_t, true> : wide<int32_t, int64_t, false>;
    if (h == nullptr) return false;
    d.emit(h);
    return true;
  }
  if (add) i.c = d.source(3, width);
  Handler h = nullptr;
  if (d.has("lo"))
    h = add ? handler_of(PTX_INTEGERS(ternary, MadLow), t) : handler_of(PTX_INTEGERS(binary, MulLow), t);
  if (d.has("hi"))
    h = add ? handler_of(PTX_INTEGERS(ternary, MadHigh), t) : handler_of(PTX_INTEGERS(binary, MulHigh), t);
  if (h == nullptr) return false;
  d.emit(h);
  return true;
}

const std::map<std::string, OfIntegers>& on_integers() {
  static const std::map<std::string, OfIntegers> all = {
      {"add", PTX_INTEGERS(binary, Add)},      {"sub", PTX_INTEGERS(binary, Sub)},
      {"and", PTX_INTEGERS(binary, And)},      {"or", PTX_INTEGERS(binary, Or)},
      {"xor", PTX_INTEGERS(binary, Xor)},      {"not", PTX_INTEGERS(unary, Not)},
      {"neg", PTX_INTEGERS(unary, Neg)},       {"abs", PTX_INTEGERS(unary, Abs)},
      {"min", PTX_INTEGERS(binary, Min)},      {"max", PTX_INTEGERS(binary, Max)},
      {"div", PTX_INTEGERS(binary, Div)},      {"rem", PTX_INTEGERS(binary, Rem)},
      {"shl", PTX_INTEGERS(shift, ShiftLeft)}, {"shr", PTX_INTEGERS(shift, ShiftRight)}};
  return all;
}
const std::map<std::string, Handler>& on_predicates() {
  static const std::map<std::string, Handler> all = {{"and", binary<uint8_t, And>},
                                                     {"or", binary<uint8_t, Or>},
                                                     {"xor", binary<uint8_t, Xor>},
                                                     {"not", unary<uint8_t, LogicalNot>}};
  return all;
}

bool emit_select(Decoder& d, uint8_t width) {
  Instruction& i = d.instruction;
  i.d = d.destination(0), i.a = d.source(1, width), i.b = d.source(2, width), i.c = d.source(3, 1);
  d.emit(width == 2 ? select<uint16_t> : width == 4 ? select<uint32_t> : select<uint64_t>);
  return true;
}

bool emit_plain(Decoder& d, Type t) {
  const std::string& op = d.parts[0];
  Handler h = nullptr;
  if (t == Type::kPred) {
    const auto found = on_predicates().find(op);
    h = found == on_predicates().end() ? nullptr : found->second;
  } else {
    const auto found = on_integers().find(op);
    h = found == on_integers().end() ? nullptr : handler_of(found->second, t);
  }
  if (h == nullptr || d.has("sat") || d.has("relu")) return false;
  Instruction& i = d.instruction;
  const uint8_t width = bytes_of(t);
  i.d = d.destination(0), i.a = d.source(1, width);
  if (d.operands.size() > 2) i.b = d.source(2, op == "shl" || op == "shr" ? 4 : width);
  d.emit(h);
  return true;
}

}  // namespace

bool decode_arithmetic(Decoder& d) {
  static const std::set<std::string> bits = {"bfi", "bfe", "shf", "prmt", "lop3", "popc", "clz"};
  static const std::set<std::string> known = {"add",  "sub", "mul",  "mad", "div",      "rem",  "min", "max",
                                              "neg",  "abs", "and",  "or",  "xor",      "not",  "shl", "shr",
                                              "selp", "fma", "sqrt", "rcp", "copysign", "addc", "subc"};
  const std::string& op = d.parts[0];
  const Type t = type_of(d.parts.back());
  if (t == Type::kOther) return false;
  if (op == "setp") return emit_setp(d, t);
  if (bits.count(op)) return emit_bits(d, t);
  if (!known.count(op)) return false;
  if (op == "selp") return emit_select(d, bytes_of(t));
  if (is_real(t)) return emit_real(d, t);
  if (op == "addc" || op == "subc" || d.has("cc")) return emit_carry(d, t);
  if (op == "mul" || op == "mad") return emit_multiply(d, t);
  return emit_plain(d, t);
}

}  // namespace dpfa::ptx
