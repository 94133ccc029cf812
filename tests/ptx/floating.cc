// Floating-point instructions: PTX ISA 9.0, section 9.7.3, without .ftz, .sat, .approx, .NaN and .xorsign. An
// operation to nearest is the host's own; for another rounding mode the host's mode is set.
#include <cfenv>
#include <cmath>
#include <map>

#include "tests/ptx/lanes.h"

namespace dpfa::ptx {
namespace {

PTX_OP2(FAdd, a + b)
PTX_OP2(FSub, a - b)
PTX_OP2(FMul, a* b)
PTX_OP2(FDiv, a / b)
PTX_OP2(FMin, b != b || a < b ? a : (a != a ? b : (a == b && std::signbit(a) ? a : b)))
PTX_OP2(FMax, b != b || a > b ? a : (a != a ? b : (a == b && std::signbit(b) ? a : b)))
PTX_OP1(FNeg, -a)
PTX_OP1(FAbs, std::abs(a))
PTX_OP1(FSqrt, std::sqrt(a))
PTX_OP1(FRcp, T{1} / a)
PTX_OP2(CopySign, std::copysign(b, a))
struct FFma {
  template <typename T>
  static T of(T a, T b, T c) {
    return std::fma(a, b, c);
  }
};

// One lane at a time in the rounding mode `mode`. Volatile: no operation may be moved out of the two calls.
template <typename T>
[[gnu::noinline]] T rounded(char op, int mode, T first, T second, T third) {
  volatile T a = first, b = second, c = third;
  const int old = std::fegetround();
  std::fesetround(mode);
  volatile T v = op == '+'   ? a + b
                 : op == '-' ? a - b
                 : op == '*' ? a * b
                 : op == '/' ? a / b
                 : op == 's' ? std::sqrt(a)
                             : std::fma(a, b, c);
  std::fesetround(old);
  return v;
}
template <typename T>
void directed(Warp& w, const Instruction& i, uint32_t mask) {
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l)
    out[l] = rounded<T>(static_cast<char>(i.offset & 0xFF), static_cast<int>(i.offset >> 8), w.at<T>(i.a)[l],
                        w.at<T>(i.b == kNone ? i.a : i.b)[l], w.at<T>(i.c == kNone ? i.a : i.c)[l]);
  w.write(i.d, out, mask);
}

const std::map<std::string, OfReals>& to_nearest() {
  static const std::map<std::string, OfReals> all = {
      {"add", PTX_REALS(binary, FAdd)},         {"sub", PTX_REALS(binary, FSub)},
      {"mul", PTX_REALS(binary, FMul)},         {"div", PTX_REALS(binary, FDiv)},
      {"min", PTX_REALS(binary, FMin)},         {"max", PTX_REALS(binary, FMax)},
      {"neg", PTX_REALS(unary, FNeg)},          {"abs", PTX_REALS(unary, FAbs)},
      {"sqrt", PTX_REALS(unary, FSqrt)},        {"rcp", PTX_REALS(unary, FRcp)},
      {"fma", PTX_REALS(ternary, FFma)},        {"mad", PTX_REALS(ternary, FFma)},
      {"copysign", PTX_REALS(binary, CopySign)}};
  return all;
}

}  // namespace

bool emit_real(Decoder& d, Type t) {
  static const std::map<std::string, char> codes = {{"add", '+'}, {"sub", '-'},  {"mul", '*'},
                                                    {"div", '/'}, {"sqrt", 's'}, {"fma", 'f'}};
  const std::string& op = d.parts[0];
  const uint8_t width = bytes_of(t);
  Instruction& i = d.instruction;
  for (const char* part : {"ftz", "sat", "approx", "full", "NaN", "xorsign"})
    if (d.has(part)) return false;
  i.d = d.destination(0);
  i.a = d.source(1, width);
  if (d.operands.size() > 2) i.b = d.source(2, width);
  if (d.operands.size() > 3) i.c = d.source(3, width);
  const int mode = d.has("rp")   ? FE_UPWARD
                   : d.has("rm") ? FE_DOWNWARD
                   : d.has("rz") ? FE_TOWARDZERO
                                 : FE_TONEAREST;
  if (mode != FE_TONEAREST) {
    const auto code = codes.find(op);
    if (code == codes.end()) return false;
    i.offset = code->second | static_cast<int64_t>(mode) << 8;
    d.emit(t == Type::kF32 ? directed<float> : directed<double>);
    return true;
  }
  const auto found = to_nearest().find(op);
  if (found == to_nearest().end()) return false;
  d.emit(found->second[t == Type::kF32 ? 0 : 1]);
  return true;
}

}  // namespace dpfa::ptx
