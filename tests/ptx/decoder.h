// Between parser and machine: the instruction groups turn an opcode and its operands into handlers and
// places.
//
// An opcode with a part that would change what is computed, and that a group does not know, is refused there:
// the machine faults where it is executed.
#pragma once

#include "tests/ptx/machine.h"

namespace dpfa::ptx {

enum class Kind : uint8_t { kRegister, kImmediate, kVector, kAddress, kSink };
struct Operand {
  Kind kind = Kind::kSink;
  uint8_t width = 0;  // bytes of a register's lane, 1: predicate
  bool negated = false;
  bool dynamic_shared = false;
  uint32_t place = kNone;
  uint64_t value = 0;         // immediate, or an address's offset
  std::vector<Operand> list;  // of a vector; of an address: its base, then what follows the comma
};

// An instruction of the text on its way into kernel.code; `parts` is its opcode, split at dots.
struct Decoder {
  Kernel& kernel;
  std::vector<std::string> parts;
  std::vector<Operand> operands;
  Instruction instruction;  // with guard and line

  bool decode();  // adds it; false where it is not known
  bool has(const char* part) const;
  uint32_t source(size_t operand, uint8_t width);  // register of that lane width, made where need be
  uint32_t source(const Operand& operand, uint8_t width);
  uint32_t destination(size_t operand) const;
  uint32_t make_register(uint8_t width);
  uint32_t add_list(const std::vector<uint32_t>& registers);  // its number in kernel.lists
  uint32_t constant(uint64_t value, uint8_t width);
  void emit(Handler run);
};

// The instruction groups; each returns false where the opcode is none of its own.
bool decode_arithmetic(Decoder& d);
bool decode_conversion(Decoder& d);
bool decode_memory(Decoder& d);
bool decode_warp(Decoder& d);    // control flow, barriers, shuffles, votes
bool decode_tensor(Decoder& d);  // copies in the background, matrix products, barriers in memory

}  // namespace dpfa::ptx
