// How warps and blocks advance. Lanes of a warp that part: PTX ISA 9.0, section 3.1.
#include "tests/ptx/machine.h"

#include <algorithm>
#include <limits>

namespace dpfa::ptx {

uint32_t Warp::predicate(uint32_t place) const {
  const uint8_t* p = at<uint8_t>(place);
  uint32_t bits = 0;
  for (int part = 0; part < 4; ++part) {
    uint64_t eight;
    std::memcpy(&eight, p + 8 * part, 8);
    bits |= static_cast<uint32_t>((eight & 0x0101010101010101u) * 0x0102040810204080u >> 56) << (8 * part);
  }
  return bits;
}

// Groups that meet become one.
void Warp::join_groups() {
  for (size_t i = 0; i < groups.size(); ++i)
    for (size_t j = groups.size(); j-- > i + 1;)
      if (groups[j].pc == groups[i].pc) {
        groups[i].mask |= groups[j].mask;
        groups[i].waits = false;
        groups.erase(groups.begin() + static_cast<ptrdiff_t>(j));
      }
}

// The one with the least counter, of those that do not wait for others.
size_t Warp::next_group() const {
  size_t chosen = groups.size();
  for (size_t i = 0; i < groups.size(); ++i)
    if (!groups[i].waits && (chosen == groups.size() || groups[i].pc < groups[chosen].pc)) chosen = i;
  if (chosen == groups.size()) {
    const Instruction& i = block->kernel->code[static_cast<size_t>(groups[0].pc)];
    fault("lanes wait for each other at different instructions: " +
          place_of(*this, i, __builtin_ctz(groups[0].mask)));
  }
  return chosen;
}

// Whether all lanes have come that must execute the instruction together.
bool Warp::is_complete(const Instruction& i, uint32_t mask, uint32_t active) {
  if (active != mask)
    fault("a guard parts the lanes of an instruction that all execute: " + place_of(*this, i, 0));
  const bool whole_warp = i.c == kNone || i.flow == Flow::kBarrier;
  const uint32_t needed = whole_warp ? live : at<uint32_t>(i.c)[__builtin_ctz(mask)];
  if (i.c == kNone && exited != 0)
    report(*this, i, __builtin_ctz(exited),
           "lanes that have ended do not execute an instruction that the whole warp must");
  if ((needed & exited) != 0)
    fault("a lane that has ended is a member of: " + place_of(*this, i, __builtin_ctz(needed & exited)));
  if ((needed & ~mask) != 0) return false;
  if ((mask & ~needed) != 0)
    fault("a lane is no member of its own instruction: " + place_of(*this, i, __builtin_ctz(mask & ~needed)));
  return true;
}

// A group until it ends, parts, waits or meets another; what it then is.
Group Warp::run_group(Group g, int64_t& budget) {
  const Instruction* code = block->kernel->code.data();
  uint64_t* hits = block->hits->data();
  int32_t stop = std::numeric_limits<int32_t>::max();
  for (const Group& other : groups)
    if (other.pc > g.pc) stop = std::min(stop, other.pc);
  while (g.pc != stop && budget-- > 0) {
    const Instruction& i = code[g.pc];
    uint32_t active = g.mask;
    if (i.guard != kNone) active &= i.guard_negated ? ~predicate(i.guard) : predicate(i.guard);
    ++hits[g.pc];
    if (i.flow == Flow::kNext) {
      if (active != 0) i.run(*this, i, active);
      ++g.pc;
      if (spins) break;
    } else if (i.flow == Flow::kBranch) {
      const bool all = active == g.mask;
      if (!all && active != 0) groups.push_back({i.target, active, false});
      if (!all) g.mask &= ~active;
      g.pc = all ? i.target : g.pc + 1;
      if (groups.size() > 1) break;
    } else if (i.flow == Flow::kExit) {
      live &= ~active;
      exited |= active;
      for (Group& other : groups) other.waits = false;
      g.mask &= ~active;
      ++g.pc;
      if (g.mask == 0) break;
    } else {
      g.waits = !is_complete(i, g.mask, active);
      if (g.waits) break;
      i.run(*this, i, g.mask);
      ++g.pc;
      if (state == State::kWaiting || spins) break;
    }
  }
  return g;
}

void Warp::run(int64_t budget) {
  while (live != 0 && state == State::kReady && !spins && budget > 0) {
    join_groups();
    const size_t chosen = next_group();
    const Group after = run_group(groups[chosen], budget);
    if (after.mask == 0) {
      groups.erase(groups.begin() + static_cast<ptrdiff_t>(chosen));
    } else {
      groups[chosen] = after;
    }
  }
  if (live == 0) {
    state = State::kDone;
    ++block->version;
  }
}

// ---- blocks

uint32_t Block::exited() const {
  uint32_t count = 0;
  for (const Warp& w : warps) count += static_cast<uint32_t>(__builtin_popcount(w.exited));
  return count;
}

void Block::arrive(Warp& w, uint32_t id, uint32_t expected) {
  Barrier& b = barriers[id];
  if (b.arrived == 0) b.expected = expected;
  if (b.expected != expected)
    fault("warps expect different numbers of threads at one barrier in " + kernel->name);
  b.arrived += static_cast<uint32_t>(__builtin_popcount(w.live));
  w.state = State::kWaiting;
  w.waits_at = id;
  ++version;
  release_full_barriers();
}

void Block::release_full_barriers() {
  for (uint32_t id = 0; id < 16; ++id) {
    Barrier& b = barriers[id];
    if (b.arrived == 0) continue;
    // Without a count all threads are expected that have not ended.
    const uint32_t expected =
        b.expected != 0 ? b.expected : static_cast<uint32_t>(warps.size()) * kLanes - exited();
    if (b.arrived < expected) continue;
    b.arrived = 0;
    ++version;
    if (b.expected == 0) ++epoch;
    for (Warp& w : warps)
      if (w.state == State::kWaiting && w.waits_at == id) w.state = State::kReady;
  }
}

void Block::run() {
  const bool random_order = options().seed != 0;
  std::vector<size_t> order(warps.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto draw = [this] { return random = random * 1664525u + 1013904223u, random >> 8; };
  int idle = 0;
  for (;;) {
    const uint64_t before = version;
    bool done = true, ran = false;
    if (random_order)
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
    for (const size_t which : order) {
      Warp& w = warps[which];
      if (w.state == State::kReady) {
        w.spins = false;
        w.run(random_order ? 20 + draw() % 2000 : std::numeric_limits<int64_t>::max());
        ran = ran || !w.spins;
        if (w.state == State::kDone) release_full_barriers();
      }
      done = done && w.state == State::kDone;
    }
    if (done) return;
    if (ran || version != before) {
      idle = 0;
      if (!random_order || copies.empty() || draw() % 4 != 0) continue;
    }
    if (!copies.empty()) {  // of copies that run in the background, any may be next
      const size_t which = random_order ? draw() % copies.size() : 0;
      const TileCopy copy = copies[which];
      copies.erase(copies.begin() + static_cast<ptrdiff_t>(which));
      apply(*this, copy);
    } else if (++idle > 3) {
      for (const Warp& w : warps)
        if (w.state != State::kDone)
          fault("the block hangs, warp " + std::to_string(w.number) + " at " +
                place_of(w, kernel->code[static_cast<size_t>(w.groups[0].pc)], 0));
    }
  }
}

}  // namespace dpfa::ptx
