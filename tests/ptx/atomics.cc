// Atomics: PTX ISA 9.0, sections 9.7.13.5 (atom) and 9.7.13.6 (red), of integers and of f32 and f64.
#include <atomic>
#include <map>

#include "tests/ptx/access.h"

namespace dpfa::ptx {

namespace {

enum Atomic { kAdd, kMin, kMax, kAnd, kOr, kXor, kExchange, kCompareAndSwap };

template <typename T>
T changed(int op, T old, T b) {
  switch (op) {
    case kAdd:
      return static_cast<T>(old + b);
    case kMin:
      return old < b ? old : b;
    case kMax:
      return old > b ? old : b;
    default:
      break;
  }
  if constexpr (!std::is_floating_point_v<T>) {
    if (op == kAnd) return old & b;
    if (op == kOr) return old | b;
    if (op == kXor) return old ^ b;
  }
  return b;
}
template <typename T>
void atomic(Warp& w, const Instruction& i, uint32_t mask) {
  const Access access = {w, i, sizeof(T)};
  const int op = i.list & 0xFF, space = i.list >> 8 & 0xFF;
  for_lanes(mask, [&](int l) {
    auto* p = reinterpret_cast<T*>(access(space, address_of(w, i, l), l, true, true));
    const std::atomic_ref<T> at(*p);
    T old = at.load();
    if (op == kCompareAndSwap) {
      T expected = w.at<T>(i.b)[l];
      at.compare_exchange_strong(expected, w.at<T>(i.c)[l]);
      old = expected;
    } else {
      while (!at.compare_exchange_weak(old, changed<T>(op, old, w.at<T>(i.b)[l]))) {
      }
    }
    if (i.d != kNone) w.at<T>(i.d)[l] = old;
  });
}

}  // namespace

bool emit_atomic(Decoder& d, bool has_result) {
  static const std::map<std::string, int> ops = {
      {"add", kAdd}, {"min", kMin}, {"max", kMax},       {"and", kAnd},
      {"or", kOr},   {"xor", kXor}, {"exch", kExchange}, {"cas", kCompareAndSwap}};
  Instruction& i = d.instruction;
  int op = -1;
  for (const std::string& p : d.parts)
    if (ops.count(p)) op = ops.at(p);
  const std::string& t = d.parts.back();
  const size_t first = has_result ? 1 : 0;
  if (op < 0 || d.operands.at(first).kind != Kind::kAddress) return false;
  const uint8_t width = t.find("64") != std::string::npos ? 8 : 4;
  if (t == "f16" || t == "bf16" || t == "bf16x2" || t == "f16x2") return false;
  const Operand& base = d.operands[first].list[0];
  i.offset = static_cast<int64_t>(d.operands[first].value);
  i.source_width = base.kind == Kind::kImmediate ? 8 : base.width;
  i.a = d.source(base, i.source_width);
  i.b = d.source(first + 1, width);
  if (op == kCompareAndSwap) i.c = d.source(first + 2, width);
  if (has_result) i.d = d.destination(0);
  const int space = d.has("global") ? kGlobal : d.has("shared") || d.has("shared::cta") ? kShared : kGeneric;
  i.list = static_cast<uint32_t>(op | space << 8);
  d.emit(t == "f32"   ? atomic<float>
         : t == "f64" ? atomic<double>
         : t == "s32" ? atomic<int32_t>
         : t == "s64" ? atomic<int64_t>
         : width == 4 ? atomic<uint32_t>
                      : atomic<uint64_t>);
  return true;
}

}  // namespace dpfa::ptx
