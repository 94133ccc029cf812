// What the machine noticed, and the places in shared memory where it looks.
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>

#include "tests/ptx/machine.h"

namespace dpfa::ptx {

namespace {
std::atomic<int64_t> reports{0};
std::mutex report_mutex;
}  // namespace

int64_t report_count() { return reports; }

std::string place_of(const Warp& w, const Instruction& i, int lane) {
  const Block& b = *w.block;
  const uint32_t thread = static_cast<uint32_t>(w.number) * kLanes + static_cast<uint32_t>(lane);
  std::string text = b.kernel->name + ", block (" + std::to_string(b.number[0]) + ", " +
                     std::to_string(b.number[1]) + "), thread " + std::to_string(thread) + ", line " +
                     std::to_string(i.line) + ":";
  if (i.line > 0 && static_cast<size_t>(i.line) <= b.module->lines.size())
    text += b.module->lines[static_cast<size_t>(i.line) - 1];
  return text;
}

void report(const Warp& w, const Instruction& i, int lane, const std::string& what) {
  static std::map<std::pair<const Kernel*, int32_t>, int64_t> seen;
  ++reports;
  const std::lock_guard lock(report_mutex);
  if (++seen[{w.block->kernel, i.line}] <= 1)
    std::fprintf(stderr, "ptx: %s: %s\n", what.c_str(), place_of(w, i, lane).c_str());
}

uint8_t* Block::at(uint32_t address, uint32_t bytes, const Warp& w, const Instruction& i, int lane) {
  const uint32_t offset = address - kSharedStart;
  if (offset >= shared.size() || shared.size() - offset < bytes)
    fault("address " + std::to_string(address) + " is outside of the block's " +
          std::to_string(shared.size()) + " bytes of shared memory: " + place_of(w, i, lane));
  return shared.data() + offset;
}

void Block::use(uint32_t address, uint32_t bytes, Access access, const Warp& w, const Instruction& i,
                int lane) {
  if (!memory_barriers.empty()) return;
  const uint32_t first = (address - kSharedStart) / 4, last = (address - kSharedStart + bytes - 1) / 4;
  const auto user = static_cast<uint8_t>(w.number);
  for (uint32_t word = first; word <= last; ++word) {
    Use& u = uses[word];
    if (u.read_epoch != epoch) u.readers = 0, u.read_epoch = epoch;
    const bool written_by_other = u.write_epoch == epoch && u.writer != user;
    if (access == Access::kLand) {
      u.in_flight = false;
    } else if (u.in_flight) {
      report(w, i, lane, "shared memory is used while cp.async fills it");
    }
    if (access == Access::kRead) {
      if (written_by_other)
        report(w, i, lane, "shared memory is read that another warp wrote since the last barrier");
      u.readers |= 1u << user;
      continue;
    }
    if (written_by_other || (u.readers & ~(1u << user)) != 0)
      report(w, i, lane, "shared memory is written that another warp used since the last barrier");
    if (access == Access::kIssue) {
      u.in_flight = true;
    } else {
      u.write_epoch = epoch, u.writer = user;
    }
  }
}

}  // namespace dpfa::ptx
