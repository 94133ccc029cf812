// One access of one lane to memory: where it is, and whether it may be.
//
// Faults: misaligned, outside of what was allocated, freed, outside of the block's shared or the thread's
// local memory. Reports: reads of what nobody wrote, and what Block::use looks for.
#pragma once

#include <cstdio>
#include <cstring>

#include "tests/ptx/decoder.h"

namespace dpfa::ptx {

enum Space { kGlobal, kShared, kLocal, kParameter, kGeneric };

struct Access {
  Warp& w;
  const Instruction& i;
  uint32_t bytes;  // of all elements

  [[noreturn]] void fail(uint64_t address, int lane, const char* what) const {
    char text[40];
    std::snprintf(text, sizeof(text), "%#llx", static_cast<unsigned long long>(address));
    fault(std::string(what) + " at " + text + ", " + std::to_string(bytes) +
          " bytes: " + place_of(w, i, lane));
  }
  uint8_t* global(uint64_t address, int lane, bool reads, bool writes) const {
    if (!memory().holds(address)) fail(address, lane, "an address outside of device memory");
    uint8_t* shadow = memory().shadow(address);
    uint8_t all = 0xFF;
    for (uint32_t k = 0; k < bytes; ++k) all &= shadow[k];
    if (all != (Memory::kExists | Memory::kWritten)) {
      if ((all & Memory::kExists) == 0) fail(address, lane, "an access outside of what was allocated");
      if (reads) unwritten(shadow, lane, "device memory that nobody wrote is read");
      if (writes) std::memset(shadow, Memory::kExists | Memory::kWritten, bytes);
    }
    return reinterpret_cast<uint8_t*>(address);
  }
  // `shadow`: kWritten for each byte that was.
  void unwritten(const uint8_t* shadow, int lane, const char* what) const {
    for (uint32_t k = 0; k < bytes; ++k)
      if ((shadow[k] & Memory::kWritten) == 0 && (i.used_bytes >> k & 1) != 0) {
        report(w, i, lane, what);
        return;
      }
  }
  uint8_t* shared(uint32_t address, int lane, bool reads, bool writes) const {
    Block& b = *w.block;
    uint8_t* p = b.at(address, bytes, w, i, lane);
    uint8_t* shadow = b.shared_written.data() + (address - kSharedStart);
    if (reads) {
      unwritten(shadow, lane, "shared memory that nobody wrote is read");
      b.use(address, bytes, Block::Access::kRead, w, i, lane);
    }
    if (writes) {
      b.use(address, bytes, Block::Access::kWrite, w, i, lane);
      std::memset(shadow, Memory::kWritten, bytes);
      std::memset(b.shared_unfenced.data() + (address - kSharedStart), w.number + 1, bytes);
    }
    return p;
  }
  uint8_t* local(uint64_t offset, int lane) const {
    const uint32_t size = w.block->kernel->local_bytes;
    if (offset >= size || size - offset < bytes) fail(offset, lane, "an access outside of local memory");
    return w.local.data() + static_cast<size_t>(lane) * size + offset;
  }
  uint8_t* operator()(int space, uint64_t address, int lane, bool reads, bool writes) const {
    if (address % bytes != 0) fail(address, lane, "a misaligned access");
    if (space == kGlobal) return global(address, lane, reads, writes);
    if (space == kShared) return shared(static_cast<uint32_t>(address), lane, reads, writes);
    if (space == kLocal) return local(address, lane);
    if (space == kGeneric) {
      if (address >> 56 == kSharedWindow >> 56)
        return shared(static_cast<uint32_t>(address), lane, reads, writes);
      if (address >> 56 == kLocalWindow >> 56) return local(address - kLocalWindow, lane);
      return global(address, lane, reads, writes);
    }
    if (writes || address + bytes > w.block->kernel->parameter_bytes)
      fail(address, lane, "an access outside of the parameters");
    return const_cast<uint8_t*>(w.block->parameters) + address;
  }
};

inline uint64_t address_of(const Warp& w, const Instruction& i, int lane) {
  const uint64_t base = i.source_width == 8 ? w.at<uint64_t>(i.a)[lane] : w.at<uint32_t>(i.a)[lane];
  return base + static_cast<uint64_t>(i.offset);
}

bool emit_atomic(Decoder& d, bool has_result);  // atomics.cc: atom, red

}  // namespace dpfa::ptx
