#include "tests/ptx/decoder.h"

namespace dpfa::ptx {

bool Decoder::decode() {
  return decode_arithmetic(*this) || decode_conversion(*this) || decode_memory(*this) || decode_warp(*this) ||
         decode_tensor(*this);
}

bool Decoder::has(const char* part) const {
  for (const std::string& p : parts)
    if (p == part) return true;
  return false;
}

uint32_t Decoder::make_register(uint8_t width) {
  const uint32_t place = kernel.register_bytes;
  kernel.register_bytes += (kLanes * width + 63u) / 64 * 64;
  return place;
}

uint32_t Decoder::add_list(const std::vector<uint32_t>& registers) {
  kernel.lists.push_back(registers);
  return static_cast<uint32_t>(kernel.lists.size() - 1);
}

uint32_t Decoder::constant(uint64_t value, uint8_t width) {
  if (width == 1)
    value = value != 0 ? 1 : 0;  // a predicate
  else if (width < 8)
    value &= (uint64_t{1} << (8 * width)) - 1;
  for (const Kernel::Preset& c : kernel.constants)
    if (c.value == value && c.width == width) return c.place;
  const uint32_t place = make_register(width);
  kernel.constants.push_back({place, width, value});
  return place;
}

uint32_t Decoder::source(size_t operand, uint8_t width) {
  if (operand >= operands.size()) fault("too few operands: " + parts[0]);
  return source(operands[operand], width);
}

uint32_t Decoder::source(const Operand& o, uint8_t width) {
  if (o.kind == Kind::kImmediate) {
    if (!o.dynamic_shared) return constant(o.value, width);
    const uint32_t place = make_register(width);
    kernel.dynamic_base.emplace_back(place, width);
    return place;
  }
  if (o.kind != Kind::kRegister) fault("an operand of '" + parts[0] + "' is no register");
  if (o.width == width) return o.place;
  // Cut, or extended by zeros, by an instruction of its own.
  Instruction cut;
  cut.line = instruction.line;
  cut.a = o.place;
  cut.source_width = o.width;
  cut.d = make_register(width);
  cut.width = width;
  cut.run = [](Warp& w, const Instruction& i, uint32_t mask) {
    uint64_t values[kLanes];
    read_raw(w, i.a, i.source_width, values);
    write_raw(w, i.d, i.width, values, mask);
  };
  kernel.code.push_back(cut);
  return cut.d;
}

uint32_t Decoder::destination(size_t operand) const {
  const Operand& o = operands.at(operand);
  return o.kind == Kind::kRegister ? o.place : kNone;
}

void Decoder::emit(Handler run) {
  instruction.run = run;
  kernel.code.push_back(instruction);
}

void fault(const std::string& what) { throw Fault(what); }

}  // namespace dpfa::ptx
