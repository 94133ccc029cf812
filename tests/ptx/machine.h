// The machine: blocks and warps, and what they notice.
//
// Warps of a block run in turn, a warp until it waits. Lanes that part run the group with the least program
// counter first and meet again where the counters do. Whatever compute-sanitizer would report stops the
// kernel (addresses outside of memory, misaligned, freed) or is reported once per instruction (reads of what
// nobody wrote).
//
// Not seen: races in device memory, orders of memory weaker than sequential consistency, what ptxas makes of
// the PTX (contractions, registers), speed.
#pragma once

#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "tests/ptx/memory.h"
#include "tests/ptx/program.h"

namespace dpfa::ptx {

// Counts a report and prints the first of each instruction.
void report(const Warp& warp, const Instruction& instruction, int lane, const std::string& what);
int64_t report_count();
std::string place_of(const Warp& warp, const Instruction& instruction, int lane);

struct MemoryBarrier {  // mbarrier
  uint32_t address = 0, count = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
};
struct TileCopy {
  uint32_t to, barrier;
  uint64_t map;
  int32_t column, row;
};

struct Block {
  const Module* module = nullptr;
  const Kernel* kernel = nullptr;
  uint32_t number[3] = {};
  const uint8_t* parameters = nullptr;
  // Of each byte; the last: 1 + the warp that wrote it and executed no fence.proxy.async since, or 0.
  std::vector<uint8_t> shared, shared_written, shared_unfenced;
  uint32_t dynamic_bytes = 0, dynamic_start = 0;
  struct Barrier {
    uint32_t arrived = 0, expected = 0;
  } barriers[16];
  // Who used each word of shared memory since the barrier of all threads before: two warps, of which one
  // writes, race. Not looked for in blocks with barriers in memory.
  struct Use {
    uint32_t write_epoch = 0, read_epoch = 0, readers = 0;
    uint8_t writer = 0;
    bool in_flight = false;  // of a cp.async that its issuer has not waited for
  };
  std::vector<Use> uses;
  uint32_t epoch = 1;
  std::vector<MemoryBarrier> memory_barriers;
  std::deque<TileCopy> copies;
  std::vector<uint64_t> acquired_maps;
  std::vector<Warp> warps;
  std::vector<uint64_t>* hits = nullptr;
  uint64_t version = 0;  // grows with whatever may end a wait
  uint32_t random = 1;

  void run();
  uint32_t exited() const;
  void arrive(Warp& warp, uint32_t id, uint32_t expected);
  void release_full_barriers();
  uint8_t* at(uint32_t address, uint32_t bytes, const Warp& warp, const Instruction& i, int lane);
  MemoryBarrier& barrier_at(uint32_t address, const Warp& warp, const Instruction& i, int lane);
  void finish_phase(MemoryBarrier& barrier);
  enum class Access { kRead, kWrite, kIssue, kLand };  // of a cp.async: issued, and waited for
  void use(uint32_t address, uint32_t bytes, Access access, const Warp& warp, const Instruction& i, int lane);
};

void apply(Block& block, const TileCopy& copy);  // copies.cc

enum class State : uint8_t { kReady, kWaiting, kDone };

struct Group {
  int32_t pc;
  uint32_t mask;
  bool waits;  // for other lanes at an instruction that all execute together
};
struct AsyncCopy {  // cp.async
  uint32_t to;
  uint64_t from;
  uint32_t bytes;
  uint8_t lane;
  int64_t group;
};
struct Product {  // wgmma.mma_async
  const Instruction* instruction;
  uint64_t a, b;
  bool add;
  int64_t group;
};

struct Warp {
  Block* block = nullptr;
  uint8_t* registers = nullptr;
  std::vector<uint8_t> local;  // lane by lane
  int number = 0;
  uint32_t live = kAll, exited = 0;
  std::vector<Group> groups;
  State state = State::kReady;
  uint32_t waits_at = 0;
  bool spins = false;  // a wait on memory failed: others should run
  bool carry[kLanes] = {};
  std::deque<AsyncCopy> copies;
  int64_t copy_group[kLanes] = {};
  std::deque<Product> products;
  int64_t product_group = 0;

  template <typename T>
  T* at(uint32_t place) const {
    return reinterpret_cast<T*>(registers + place);
  }
  template <typename T>
  void write(uint32_t place, const T (&values)[kLanes], uint32_t mask) {
    T* to = at<T>(place);
    if (mask == kAll) {
      std::memcpy(to, values, sizeof(values));
    } else {
      for (int l = 0; l < kLanes; ++l) to[l] = (mask >> l & 1) != 0 ? values[l] : to[l];
    }
  }
  void run(int64_t budget);  // until it waits, spins, ends or has executed `budget` instructions
  uint32_t predicate(uint32_t place) const;

 private:
  void join_groups();
  size_t next_group() const;
  bool is_complete(const Instruction& instruction, uint32_t mask, uint32_t active);
  Group run_group(Group group, int64_t& budget);
};

// The lanes of a register of 2, 4 or 8 bytes as 64-bit numbers, and back (cut, or extended by zeros).
void read_raw(const Warp& warp, uint32_t place, uint8_t width, uint64_t (&values)[kLanes]);
void write_raw(Warp& warp, uint32_t place, uint8_t width, const uint64_t (&values)[kLanes], uint32_t mask);

template <typename Call>
inline void for_lanes(uint32_t mask, const Call& call) {
  for (; mask != 0; mask &= mask - 1) call(__builtin_ctz(mask));
}

}  // namespace dpfa::ptx
