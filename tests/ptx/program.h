// A PTX module as decoded instructions: what the machine (machine.h) runs.
//
// Every operand is a place in a warp's register file: a register holds the numbers of 32 lanes side by side,
// 1 byte each for predicates and 2, 4 or 8 for the others. Immediates and special registers are registers
// that are filled when a warp starts, so that no instruction distinguishes them.
//
// Of the PTX ISA 9.0 the instructions are known that the kernels of this project consist of; each file of
// instructions names its sections. Debug information, calls and .func are not.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace dpfa::ptx {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kAll = 0xFFFFFFFFu;
inline constexpr uint32_t kNone = 0xFFFFFFFFu;  // no register

struct Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&, uint32_t mask);

enum class Flow : uint8_t {
  kNext,
  kBranch,
  kExit,
  kConverge,  // all lanes of a member mask (register `c`) or, with kNone, of the warp execute it together
  kBarrier,   // bar.sync: as kConverge, then the warp waits
};

struct Instruction {
  Handler run = nullptr;
  Flow flow = Flow::kNext;
  bool guard_negated = false;
  uint8_t width = 0;  // bytes of the register operand of loads, stores and conversions
  uint8_t source_width = 0;
  uint32_t guard = kNone;
  uint32_t d = kNone, a = kNone, b = kNone, c = kNone, e = kNone;
  int64_t offset = 0;           // of an address; or an immediate modifier
  int32_t target = -1;          // of a branch
  uint32_t list = kNone;        // of kernel.lists
  uint32_t used_bytes = kNone;  // of a load whose other bytes may be anything
  int32_t line = 0;             // of the PTX text
};

enum class Special : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLane,
  kWarp,
  kLaneMaskLt,
  kClock,
  kDynamicShared
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<std::vector<uint32_t>> lists;  // registers of vectors and tiles
  struct Preset {
    uint32_t place;
    uint8_t width;
    uint64_t value;
  };
  std::vector<Preset> constants;
  std::vector<std::pair<uint32_t, Special>> specials;
  std::vector<std::pair<uint32_t, uint8_t>>
      dynamic_base;  // registers that hold the address of dynamic shared memory
  uint32_t register_bytes = 0;
  std::vector<std::pair<uint32_t, uint32_t>> parameters;  // offset, size
  uint32_t parameter_bytes = 0;
  uint32_t static_shared = 0, dynamic_alignment = 16;  // shared addresses count from kSharedStart
  uint32_t local_bytes = 0;
  uint32_t most_threads = 1024;
};

// Where the window of shared memory starts for a block: not aligned to more than 16 bytes.
inline constexpr uint32_t kSharedStart = 0x410;

struct Module {
  std::string target;  // "sm_90a"
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
  std::map<std::string, uint64_t> globals;  // addresses of module variables
  std::vector<std::string> lines;
};

// The text's .target; empty where it is no PTX.
std::string target_of(const std::string& text);
// Throws std::runtime_error for text that is not understood; an instruction that is not known faults when it
// is executed. `allocate` gives device memory for a module variable: its initial content.
std::unique_ptr<Module> parse_module(const std::string& text,
                                     uint64_t (*allocate)(const std::vector<uint8_t>& content));

// Throws Fault (memory.h).
[[noreturn]] void fault(const std::string& what);

}  // namespace dpfa::ptx
