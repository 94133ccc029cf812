// Comparisons that set predicates: PTX ISA 9.0, section 9.7.6.2 (setp).
#include "tests/ptx/lanes.h"

namespace dpfa::ptx {
namespace {

template <typename T, typename Op>
void compare(Warp& w, const Instruction& i, uint32_t mask) {
  const T *a = w.at<T>(i.a), *b = w.at<T>(i.b);
  uint8_t out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = Op::of(a[l], b[l]) ? 1 : 0;
  if (i.c != kNone) {  // joined with another predicate
    const uint8_t* c = w.at<uint8_t>(i.c);
    for (int l = 0; l < kLanes; ++l) {
      const uint8_t other = c[l] ^ static_cast<uint8_t>(i.offset >> 4 & 1);
      const int how = i.offset & 3;
      out[l] = how == 1 ? (out[l] & other) : how == 2 ? (out[l] | other) : (out[l] ^ other);
    }
  }
  w.write(i.d, out, mask);
  if (i.e != kNone) {
    uint8_t inverse[kLanes];
    for (int l = 0; l < kLanes; ++l) inverse[l] = Op::of(a[l], b[l]) ? 0 : 1;
    if (i.c != kNone) fault("setp with two results and another predicate: " + place_of(w, i, 0));
    w.write(i.e, inverse, mask);
  }
}

#define PTX_COMPARE(Name, expression) \
  struct Name {                       \
    template <typename T>             \
    static bool of(T a, T b) {        \
      return expression;              \
    }                                 \
  };

PTX_COMPARE(Equal, a == b)
PTX_COMPARE(NotEqual, a != b)
PTX_COMPARE(Less, a < b)
PTX_COMPARE(LessEqual, a <= b)
PTX_COMPARE(Greater, a > b)
PTX_COMPARE(GreaterEqual, a >= b)
PTX_COMPARE(NotEqualU, a != b)
PTX_COMPARE(EqualU, a == b || a != a || b != b)
PTX_COMPARE(LessU, !(a >= b))
PTX_COMPARE(LessEqualU, !(a > b))
PTX_COMPARE(GreaterU, !(a <= b))
PTX_COMPARE(GreaterEqualU, !(a < b))
PTX_COMPARE(NotEqualOrdered, a<b || a> b)
PTX_COMPARE(Ordered, a == a && b == b)
PTX_COMPARE(Unordered, a != a || b != b)

template <typename T>
Handler comparison(const std::string& c, bool real) {
  if (c == "eq") return compare<T, Equal>;
  if (c == "ne") return real ? compare<T, NotEqualOrdered> : compare<T, NotEqual>;
  if (c == "lt" || c == "lo") return compare<T, Less>;
  if (c == "le" || c == "ls") return compare<T, LessEqual>;
  if (c == "gt" || c == "hi") return compare<T, Greater>;
  if (c == "ge" || c == "hs") return compare<T, GreaterEqual>;
  if (!real) return nullptr;
  if (c == "equ") return compare<T, EqualU>;
  if (c == "neu") return compare<T, NotEqualU>;
  if (c == "ltu") return compare<T, LessU>;
  if (c == "leu") return compare<T, LessEqualU>;
  if (c == "gtu") return compare<T, GreaterU>;
  if (c == "geu") return compare<T, GreaterEqualU>;
  if (c == "num") return compare<T, Ordered>;
  if (c == "nan") return compare<T, Unordered>;
  return nullptr;
}

}  // namespace

bool emit_setp(Decoder& d, Type t) {
  Instruction& i = d.instruction;
  const uint8_t width = bytes_of(t);
  i.d = d.destination(0);
  if (!d.operands[0].list.empty() && d.operands[0].list[0].kind == Kind::kRegister)
    i.e = d.operands[0].list[0].place;
  i.a = d.source(1, width), i.b = d.source(2, width);
  if (d.operands.size() > 3) {
    i.c = d.source(3, 1);
    i.offset = d.has("and") ? 1 : d.has("or") ? 2 : 3;
    if (d.operands[3].negated) i.offset |= 16;
  }
  const std::string& c = d.parts[1];
  Handler h = nullptr;
  switch (t) {
    case Type::kU16:
      h = comparison<uint16_t>(c, false);
      break;
    case Type::kS16:
      h = comparison<int16_t>(c, false);
      break;
    case Type::kU32:
      h = comparison<uint32_t>(c, false);
      break;
    case Type::kS32:
      h = comparison<int32_t>(c, false);
      break;
    case Type::kU64:
      h = comparison<uint64_t>(c, false);
      break;
    case Type::kS64:
      h = comparison<int64_t>(c, false);
      break;
    case Type::kF32:
      h = comparison<float>(c, true);
      break;
    case Type::kF64:
      h = comparison<double>(c, true);
      break;
    default:
      return false;
  }
  if (h == nullptr) return false;
  d.emit(h);
  return true;
}

}  // namespace dpfa::ptx
