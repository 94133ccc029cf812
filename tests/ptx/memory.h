// Device memory with a record of what exists and what was written, and what the machine is told by its
// environment.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

namespace dpfa::ptx {

// Ends a kernel: what no GPU would have done without an error.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// How the machine picks among what the rules of CUDA leave open; each from the environment variable beside
// it. Throws std::invalid_argument for any other value.
struct Options {
  int capability = 90;   // PTX_DEVICE: compute capability: 80, 90 (with the features of sm_90a) or 100
  bool late = true;      // PTX_COPIES=early|late: work in the background happens at once, or when waited for
  bool truncate = true;  // PTX_TENSOR=truncate|exact: how tensor cores add (tensor.h)
  uint32_t seed = 0;     // PTX_SEED: 0 runs warps in turn, others in random order, interrupted at random
  int threads = 2;       // PTX_THREADS: blocks that run at a time
  std::string drop;      // PTX_DROP: PTX lines that hold this text are left out: what is then noticed?
  bool report = false;   // PTX_REPORT: print kernels, instructions and lines that ran, at exit
};
const Options& options();

// 256 GiB of addresses, each used once, so that one that was freed is known as such. Addresses are those of
// the process.
class Memory {
 public:
  Memory();
  uint64_t allocate(size_t bytes);  // at least 256 bytes from any other; filled with NaN
  bool release(uint64_t address);   // false where nothing was allocated there
  bool exists(uint64_t address, size_t bytes) const;
  bool written(uint64_t address, size_t bytes) const;
  void mark_written(uint64_t address, size_t bytes);
  bool holds(uint64_t address) const { return address - base_ < kBytes; }
  uint8_t* shadow(uint64_t address) { return shadow_ + (address - base_); }

  static constexpr uint64_t kBytes = uint64_t{1} << 38;
  static constexpr uint8_t kExists = 1, kWritten = 2;

 private:
  uint64_t base_ = 0, next_ = 0;
  uint8_t* shadow_ = nullptr;
  std::map<uint64_t, size_t> allocations_;
};
Memory& memory();

// Generic addresses of shared and local memory: out of the reach of device memory.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 56, kLocalWindow = uint64_t{2} << 56;

}  // namespace dpfa::ptx
