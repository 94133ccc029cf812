// An instruction as a loop over the 32 lanes of a warp, which the compiler turns into vector code.
//
// A loop computes all lanes, also those that do not take part, and writes those of `mask`: so an operation
// must be defined for any operands. An operation is a struct with a template `of`, made by PTX_OP1 or
// PTX_OP2.
#pragma once

#include <array>
#include <type_traits>

#include "tests/ptx/decoder.h"

namespace dpfa::ptx {

// The last part of an opcode. Untyped bits (.b32) count as unsigned.
enum class Type { kU16, kS16, kU32, kS32, kU64, kS64, kF32, kF64, kPred, kOther };

inline Type type_of(const std::string& t) {
  if (t == "u16" || t == "b16") return Type::kU16;
  if (t == "s16") return Type::kS16;
  if (t == "u32" || t == "b32") return Type::kU32;
  if (t == "s32") return Type::kS32;
  if (t == "u64" || t == "b64") return Type::kU64;
  if (t == "s64") return Type::kS64;
  if (t == "f32") return Type::kF32;
  if (t == "f64") return Type::kF64;
  return t == "pred" ? Type::kPred : Type::kOther;
}
inline uint8_t bytes_of(Type t) {
  return t == Type::kU16 || t == Type::kS16                      ? 2
         : t == Type::kU32 || t == Type::kS32 || t == Type::kF32 ? 4
         : t == Type::kPred                                      ? 1
                                                                 : 8;
}

template <typename T, typename Op>
void unary(Warp& w, const Instruction& i, uint32_t mask) {
  const T* a = w.at<T>(i.a);
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = Op::template of<T>(a[l]);
  w.write(i.d, out, mask);
}
template <typename T, typename Op>
void binary(Warp& w, const Instruction& i, uint32_t mask) {
  const T *a = w.at<T>(i.a), *b = w.at<T>(i.b);
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = Op::template of<T>(a[l], b[l]);
  w.write(i.d, out, mask);
}
template <typename T, typename Op>
void ternary(Warp& w, const Instruction& i, uint32_t mask) {
  const T *a = w.at<T>(i.a), *b = w.at<T>(i.b), *c = w.at<T>(i.c);
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = Op::template of<T>(a[l], b[l], c[l]);
  w.write(i.d, out, mask);
}
// Shifts: the second operand is 32 bits wide whatever the first is.
template <typename T, typename Op>
void shift(Warp& w, const Instruction& i, uint32_t mask) {
  const T* a = w.at<T>(i.a);
  const uint32_t* b = w.at<uint32_t>(i.b);
  T out[kLanes];
  for (int l = 0; l < kLanes; ++l) out[l] = Op::template of<T>(a[l], b[l]);
  w.write(i.d, out, mask);
}

#define PTX_UNSIGNED(T) std::make_unsigned_t<T>
#define PTX_OP1(Name, expression)        \
  struct Name {                          \
    template <typename T>                \
    static T of(T a) {                   \
      return static_cast<T>(expression); \
    }                                    \
  };
#define PTX_OP2(Name, expression)        \
  struct Name {                          \
    template <typename T>                \
    static T of(T a, T b) {              \
      return static_cast<T>(expression); \
    }                                    \
  };

// The handlers of an instruction on integers, in the order of Type, and on floating-point numbers.
using OfIntegers = std::array<Handler, 6>;
using OfReals = std::array<Handler, 2>;
#define PTX_INTEGERS(Shape, Op)                                                                            \
  OfIntegers {                                                                                             \
    Shape<uint16_t, Op>, Shape<int16_t, Op>, Shape<uint32_t, Op>, Shape<int32_t, Op>, Shape<uint64_t, Op>, \
        Shape<int64_t, Op>                                                                                 \
  }
#define PTX_REALS(Shape, Op) \
  OfReals { Shape<float, Op>, Shape<double, Op> }

inline bool is_integer(Type t) { return t <= Type::kS64; }
inline bool is_real(Type t) { return t == Type::kF32 || t == Type::kF64; }
inline Handler handler_of(const OfIntegers& all, Type t) {
  return is_integer(t) ? all[static_cast<size_t>(t)] : nullptr;
}

// Parts of decode_arithmetic, each in a file of its own. False where the instruction is not known.
bool emit_real(Decoder& d, Type t);  // floating.cc
bool emit_setp(Decoder& d, Type t);  // comparison.cc
bool emit_bits(Decoder& d, Type t);  // bits.cc

}  // namespace dpfa::ptx
