// Loads and stores: PTX ISA 9.0, sections 9.7.9.8 (ld) and 9.7.9.11 (st).
#include "tests/ptx/access.h"

namespace dpfa::ptx {

namespace {

template <typename T, int kSpace>  // T: of an element in memory
void load(Warp& w, const Instruction& i, uint32_t mask) {
  const auto& list = w.block->kernel->lists[i.list];
  const Access access = {w, i, static_cast<uint32_t>(sizeof(T) * list.size())};
  for_lanes(mask, [&](int l) {
    const uint8_t* from = access(kSpace, address_of(w, i, l), l, true, false);
    for (size_t k = 0; k < list.size(); ++k) {
      T v;
      std::memcpy(&v, from + k * sizeof(T), sizeof(T));
      if (list[k] == kNone) continue;
      if (i.width == 8)
        w.at<uint64_t>(list[k])[l] = static_cast<uint64_t>(static_cast<int64_t>(v));
      else if (i.width == 4)
        w.at<uint32_t>(list[k])[l] = static_cast<uint32_t>(static_cast<int64_t>(v));
      else
        w.at<uint16_t>(list[k])[l] = static_cast<uint16_t>(v);
    }
  });
}
template <typename T, int kSpace>
void store(Warp& w, const Instruction& i, uint32_t mask) {
  const auto& list = w.block->kernel->lists[i.list];
  const Access access = {w, i, static_cast<uint32_t>(sizeof(T) * list.size())};
  for_lanes(mask, [&](int l) {
    uint8_t* to = access(kSpace, address_of(w, i, l), l, false, true);
    for (size_t k = 0; k < list.size(); ++k) {
      const T v = i.width == 8   ? static_cast<T>(w.at<uint64_t>(list[k])[l])
                  : i.width == 4 ? static_cast<T>(w.at<uint32_t>(list[k])[l])
                                 : static_cast<T>(w.at<uint16_t>(list[k])[l]);
      std::memcpy(to + k * sizeof(T), &v, sizeof(T));
    }
  });
}

template <int kSpace>
Handler loader(const std::string& t) {
  if (t == "u8" || t == "b8") return load<uint8_t, kSpace>;
  if (t == "s8") return load<int8_t, kSpace>;
  if (t == "u16" || t == "b16" || t == "f16" || t == "bf16") return load<uint16_t, kSpace>;
  if (t == "s16") return load<int16_t, kSpace>;
  if (t == "u32" || t == "b32" || t == "f32") return load<uint32_t, kSpace>;
  if (t == "s32") return load<int32_t, kSpace>;
  if (t == "u64" || t == "b64" || t == "f64" || t == "s64") return load<uint64_t, kSpace>;
  return nullptr;
}
template <int kSpace>
Handler storer(const std::string& t) {
  if (t == "u8" || t == "b8" || t == "s8") return store<uint8_t, kSpace>;
  if (t == "u16" || t == "b16" || t == "s16" || t == "f16" || t == "bf16") return store<uint16_t, kSpace>;
  if (t == "u32" || t == "b32" || t == "f32" || t == "s32") return store<uint32_t, kSpace>;
  if (t == "u64" || t == "b64" || t == "f64" || t == "s64") return store<uint64_t, kSpace>;
  return nullptr;
}

bool emit_access(Decoder& d, bool is_load) {
  Instruction& i = d.instruction;
  Operand& value = d.operands.at(is_load ? 0 : 1);
  const Operand& address = d.operands.at(is_load ? 1 : 0);
  if (address.kind != Kind::kAddress) return false;
  const Operand& base = address.list[0];
  i.offset = static_cast<int64_t>(address.value);
  i.source_width = base.kind == Kind::kImmediate ? 8 : base.width;
  i.a = d.source(base, i.source_width);
  const std::string& t = d.parts.back();
  const uint8_t natural = t.find("64") != std::string::npos ? 8 : t.find("32") != std::string::npos ? 4 : 2;
  std::vector<Operand> values = value.kind == Kind::kVector ? value.list : std::vector<Operand>{value};
  i.width = natural;
  for (const Operand& o : values)
    if (o.kind == Kind::kRegister) i.width = o.width;
  std::vector<uint32_t> list;
  for (const Operand& o : values)
    list.push_back(is_load ? (o.kind == Kind::kRegister ? o.place : kNone) : d.source(o, i.width));
  i.list = d.add_list(list);
  const bool shared = d.has("shared") || d.has("shared::cta");
  const Handler h = is_load ? (d.has("global") || d.has("const") ? loader<kGlobal>(t)
                               : shared                          ? loader<kShared>(t)
                               : d.has("local")                  ? loader<kLocal>(t)
                               : d.has("param")                  ? loader<kParameter>(t)
                                                                 : loader<kGeneric>(t))
                            : (d.has("global")  ? storer<kGlobal>(t)
                               : shared         ? storer<kShared>(t)
                               : d.has("local") ? storer<kLocal>(t)
                                                : storer<kGeneric>(t));
  if (h == nullptr) return false;
  d.emit(h);
  return true;
}

}  // namespace

bool decode_memory(Decoder& d) {
  const std::string& op = d.parts[0];
  if (op == "ld" || op == "ldu") return emit_access(d, true);
  if (op == "st") return emit_access(d, false);
  if (op == "atom") return emit_atomic(d, true);
  if (op == "red") return emit_atomic(d, false);
  return false;
}

}  // namespace dpfa::ptx
