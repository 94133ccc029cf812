// Fat binaries: a header of 16 bytes, then for every architecture a header and the code (kind 1: text of
// PTX).
#include <cstring>

#include "tests/ptx/runtime.h"

namespace dpfa::ptx {

namespace {

uint64_t module_memory(const std::vector<uint8_t>& content) {
  const uint64_t address = memory().allocate(std::max<size_t>(content.size(), 1));
  std::memcpy(reinterpret_cast<void*>(address), content.data(), content.size());
  memory().mark_written(address, content.size());
  return address;
}

struct FatHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};
struct FatEntry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes;
};

int capability_of(const std::string& target) { return std::stoi(target.substr(3)); }

}  // namespace

std::vector<std::unique_ptr<Module>> modules_of(const void* wrapper) {
  const auto* data = *reinterpret_cast<const uint8_t* const*>(static_cast<const uint8_t*>(wrapper) + 8);
  FatHeader header;
  std::memcpy(&header, data, sizeof(header));
  if (header.magic != 0xBA55ED50) throw std::runtime_error("this is no fat binary");
  std::vector<std::unique_ptr<Module>> modules;
  for (uint64_t at = header.header_bytes; at < header.header_bytes + header.bytes;) {
    FatEntry entry;
    std::memcpy(&entry, data + at, sizeof(entry));
    const auto* text = reinterpret_cast<const char*>(data + at + entry.header_bytes);
    if (entry.kind == 1) {
      std::string ptx(text, strnlen(text, entry.bytes));
      const std::string& drop = options().drop;
      for (size_t found; !drop.empty() && (found = ptx.find(drop)) != std::string::npos;) {
        size_t begin = ptx.rfind('\n', found) + 1;
        for (; ptx[begin] != '\n'; ++begin) ptx[begin] = ' ';
      }
      if (target_of(ptx).empty())
        throw std::runtime_error("the PTX is compressed: build with -Xfatbinary -compress-mode=none");
      modules.push_back(parse_module(ptx, module_memory));
    }
    at += entry.header_bytes + entry.bytes;
  }
  return modules;
}

const Module* module_for_device(const std::vector<std::unique_ptr<Module>>& modules) {
  const Module* best = nullptr;
  for (const auto& m : modules) {
    const int capability = capability_of(m->target);
    const bool exact_only = m->target.back() == 'a' || m->target.back() == 'f';
    if (capability > options().capability || (exact_only && capability != options().capability)) continue;
    if (best == nullptr || capability > capability_of(best->target) ||
        (capability == capability_of(best->target) && exact_only))
      best = m.get();
  }
  return best;
}

}  // namespace dpfa::ptx
