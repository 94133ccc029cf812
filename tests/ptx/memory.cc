#include "tests/ptx/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace dpfa::ptx {

namespace {

std::string text_of(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

// One of two words; the first where the variable is not set.
bool is_first(const char* name, const std::string& first, const std::string& second) {
  const std::string text = text_of(name);
  if (!text.empty() && text != first && text != second)
    throw std::invalid_argument(std::string(name) + " is '" + text + "': set it to " + first + " or " +
                                second);
  return text != second;
}

int number_of(const char* name, int otherwise) {
  const std::string text = text_of(name);
  if (text.empty()) return otherwise;
  if (text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
    throw std::invalid_argument(std::string(name) + " is '" + text +
                                "': set it to a number of at most 9 digits");
  return std::stoi(text);
}

}  // namespace

const Options& options() {
  static const Options* all = [] {  // outlives the destructors of the program
    Options o;
    o.capability = number_of("PTX_DEVICE", o.capability);
    if (o.capability != 80 && o.capability != 90 && o.capability != 100)
      throw std::invalid_argument("PTX_DEVICE is " + std::to_string(o.capability) +
                                  ": set it to 80, 90 or 100");
    o.late = is_first("PTX_COPIES", "late", "early");
    o.truncate = is_first("PTX_TENSOR", "truncate", "exact");
    o.seed = static_cast<uint32_t>(number_of("PTX_SEED", 0));
    o.threads = std::max(1, number_of("PTX_THREADS", o.threads));
    o.drop = text_of("PTX_DROP");
    o.report = !text_of("PTX_REPORT").empty();
    return new Options(o);
  }();
  return *all;
}

Memory::Memory() {
  const auto reserve = [](size_t bytes) {
    void* p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Fault("no address space for device memory");
    return p;
  };
  base_ = reinterpret_cast<uint64_t>(reserve(kBytes));
  shadow_ = static_cast<uint8_t*>(reserve(kBytes));
  next_ = base_ + 4096;
}

// Addresses are never used again, so that one that was freed is known as such.
uint64_t Memory::allocate(size_t bytes) {
  const size_t alignment = bytes >= 4096 ? 4096 : 256;
  const uint64_t address = (next_ + alignment - 1) / alignment * alignment;
  if (address + bytes + 256 > base_ + kBytes) throw Fault("device memory is used up");
  next_ = address + bytes + 256;
  if (bytes >= 4096) next_ = (next_ + 4095) / 4096 * 4096;
  std::memset(reinterpret_cast<void*>(address), 0xFF, bytes);
  std::memset(shadow(address), kExists, bytes);
  allocations_[address] = bytes;
  return address;
}
bool Memory::release(uint64_t address) {
  const auto found = allocations_.find(address);
  if (found == allocations_.end()) return false;
  const size_t bytes = found->second;
  allocations_.erase(found);
  if (bytes >= 4096) {
    const size_t whole = (bytes + 4095) / 4096 * 4096;
    madvise(reinterpret_cast<void*>(address), whole, MADV_DONTNEED);
    madvise(shadow(address), whole, MADV_DONTNEED);
  } else {
    std::memset(shadow(address), 0, bytes);
  }
  return true;
}
bool Memory::exists(uint64_t address, size_t bytes) const {
  if (!holds(address) || !holds(address + bytes)) return false;
  for (size_t i = 0; i < bytes; ++i)
    if ((shadow_[address - base_ + i] & kExists) == 0) return false;
  return true;
}
bool Memory::written(uint64_t address, size_t bytes) const {
  for (size_t i = 0; i < bytes; ++i)
    if ((shadow_[address - base_ + i] & kWritten) == 0) return false;
  return true;
}
void Memory::mark_written(uint64_t address, size_t bytes) {
  std::memset(shadow(address), kExists | kWritten, bytes);
}

Memory& memory() {
  static Memory one;
  return one;
}

}  // namespace dpfa::ptx
