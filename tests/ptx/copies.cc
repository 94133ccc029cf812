// Copies in the background and the barriers in memory that they complete: PTX ISA 9.0, sections 9.7.9.25
// (cp.async), 9.7.9.27.1.2 (copies by tensor maps) and 9.7.13.15 (mbarrier). A late copy happens when it is
// waited for, or when nothing else can go on.
#include <algorithm>
#include <cstring>

#include "tests/ptx/tensor.h"

namespace dpfa::ptx {
namespace {

void perform(Warp& w, const AsyncCopy& c, const Instruction& i) {
  Block& b = *w.block;
  uint8_t* to = b.shared.data() + (c.to - kSharedStart);
  const uint32_t bytes = c.bytes & 0xFF, size = c.bytes >> 8;
  std::memcpy(to, reinterpret_cast<const void*>(c.from), bytes);
  std::memset(to + bytes, 0, size - bytes);
  std::memset(b.shared_written.data() + (c.to - kSharedStart), Memory::kWritten, size);
  b.use(c.to, size, options().late ? Block::Access::kLand : Block::Access::kWrite, w, i, c.lane);
}
void copy_async(Warp& w, const Instruction& i, uint32_t mask) {
  const uint32_t size = static_cast<uint32_t>(i.offset);
  for_lanes(mask, [&](int l) {
    const uint32_t to = w.at<uint32_t>(i.a)[l], bytes = i.c == kNone ? size : w.at<uint32_t>(i.c)[l];
    const uint64_t from = w.at<uint64_t>(i.b)[l];
    if (to % size != 0 || from % size != 0 || bytes > size)
      fault("cp.async is misaligned: " + place_of(w, i, l));
    w.block->at(to, size, w, i, l);
    if (bytes > 0 && !memory().exists(from, bytes))
      fault("cp.async reads outside of what was allocated, " + std::to_string(bytes) +
            " bytes: " + place_of(w, i, l));
    if (bytes > 0 && !memory().written(from, bytes))
      report(w, i, l, "device memory that nobody wrote is read");
    const AsyncCopy copy = {to, from, bytes | size << 8, static_cast<uint8_t>(l), w.copy_group[l]};
    if (options().late) {
      w.block->use(to, size, Block::Access::kIssue, w, i, l);
      w.copies.push_back(copy);
    } else {
      perform(w, copy, i);
    }
  });
}
void wait_copies(Warp& w, const Instruction& i, uint32_t mask) {
  for (size_t k = 0; k < w.copies.size();) {
    const AsyncCopy& c = w.copies[k];
    const bool due = (mask >> c.lane & 1) != 0 && c.group < w.copy_group[c.lane] - i.offset;
    if (due) {
      perform(w, c, i);
      w.copies.erase(w.copies.begin() + static_cast<ptrdiff_t>(k));
    } else {
      ++k;
    }
  }
}

void barrier_init(Warp& w, const Instruction& i, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint32_t address = w.at<uint32_t>(i.a)[l] + static_cast<uint32_t>(i.offset);
    if (address % 8 != 0) fault("mbarrier is misaligned: " + place_of(w, i, l));
    w.block->at(address, 8, w, i, l);
    const uint32_t count = w.at<uint32_t>(i.b)[l];
    if (count == 0 || count >= 1u << 20)
      fault("mbarrier of " + std::to_string(count) + " arrivals: " + place_of(w, i, l));
    for (const MemoryBarrier& b : w.block->memory_barriers)
      if (b.address == address) fault("mbarrier is initialised twice: " + place_of(w, i, l));
    w.block->memory_barriers.push_back({address, count, count, 0, 0});
  });
}
void barrier_arrive(Warp& w, const Instruction& i, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    MemoryBarrier& b = w.block->barrier_at(w.at<uint32_t>(i.a)[l] + static_cast<uint32_t>(i.offset), w, i, l);
    if (i.b != kNone) b.bytes += w.at<uint32_t>(i.b)[l];
    if (b.pending == 0) fault("more arrivals than the mbarrier expects: " + place_of(w, i, l));
    --b.pending;
    w.block->finish_phase(b);
  });
}
void barrier_try(Warp& w, const Instruction& i, uint32_t mask) {
  uint8_t out[kLanes] = {};
  for_lanes(mask, [&](int l) {
    const MemoryBarrier& b =
        w.block->barrier_at(w.at<uint32_t>(i.a)[l] + static_cast<uint32_t>(i.offset), w, i, l);
    out[l] = (b.phase & 1) != (w.at<uint32_t>(i.b)[l] & 1) ? 1 : 0;
    w.spins = w.spins || out[l] == 0;
  });
  w.write(i.d, out, mask);
}

void copy_tile(Warp& w, const Instruction& i, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint64_t map = w.at<uint64_t>(i.b)[l];
    const TileCopy copy = {w.at<uint32_t>(i.a)[l], w.at<uint32_t>(i.c)[l], map,
                           static_cast<int32_t>(w.at<uint32_t>(w.block->kernel->lists[i.list][0])[l]),
                           static_cast<int32_t>(w.at<uint32_t>(w.block->kernel->lists[i.list][1])[l])};
    if (map % 64 != 0) fault("a tensor map is not aligned to 64 bytes: " + place_of(w, i, l));
    if (!memory().exists(map, 128) || !memory().written(map, 128))
      fault("there is no tensor map: " + place_of(w, i, l));
    MapContent content;
    std::memcpy(&content, reinterpret_cast<const void*>(map), sizeof(content));
    if (std::find(w.block->acquired_maps.begin(), w.block->acquired_maps.end(), map) ==
        w.block->acquired_maps.end())
      report(w, i, l,
             "a tensor map in device memory that the block has not acquired (fence.proxy.tensormap)");
    if (content.magic != kMapMagic) fault("this is no tensor map: " + place_of(w, i, l));
    if (copy.to % 128 != 0)
      fault("a tensor copy to a place that is not aligned to 128 bytes: " + place_of(w, i, l));
    w.block->at(copy.to, content.box_columns * content.box_rows * 2, w, i, l);
    w.block->barrier_at(copy.barrier, w, i, l);
    const uint64_t bytes = (content.rows - 1) * content.stride + content.columns * 2;
    if (!memory().exists(content.address, bytes))
      fault("a tensor map reaches outside of what was allocated: " + place_of(w, i, l));
    if (options().late)
      w.block->copies.push_back(copy);
    else
      apply(*w.block, copy);
  });
}

}  // namespace

bool emit_copy(Decoder& d) {
  Instruction& i = d.instruction;
  if (d.has("commit_group")) {
    d.emit([](Warp& w, const Instruction&, uint32_t mask) {
      for_lanes(mask, [&](int l) { ++w.copy_group[l]; });
    });
    return true;
  }
  if (d.has("wait_group") || d.has("wait_all")) {
    i.offset = d.has("wait_group") ? static_cast<int64_t>(d.operands.at(0).value) : -1;
    d.emit(wait_copies);
    return true;
  }
  if (!d.has("shared") || !d.has("global") || d.operands.size() < 3) return false;
  i.a = d.source(d.operands[0].list[0], 4);
  i.b = d.source(d.operands[1].list[0], 8);
  if (d.operands[0].value != 0 || d.operands[1].value != 0) return false;
  i.offset = static_cast<int64_t>(d.operands[2].value);
  if (d.operands.size() > 3) i.c = d.source(3, 4);
  d.emit(copy_async);
  return true;
}

bool emit_memory_barrier(Decoder& d) {
  Instruction& i = d.instruction;
  if (!d.has("shared::cta") && !d.has("shared")) return false;
  size_t address = 0;
  if (d.has("init")) {
    i.b = d.source(1, 4);
  } else if (d.has("arrive")) {
    address = 1;
    if (d.operands[0].kind != Kind::kSink) return false;
    if (d.has("expect_tx"))
      i.b = d.source(2, 4);
    else if (d.operands.size() > 2)
      return false;
  } else if ((d.has("try_wait") || d.has("test_wait")) && d.has("parity")) {
    address = 1;
    i.d = d.destination(0), i.b = d.source(2, 4);
  } else {
    return false;
  }
  if (d.operands.at(address).kind != Kind::kAddress) return false;
  i.a = d.source(d.operands[address].list[0], 4);
  i.offset = static_cast<int64_t>(d.operands[address].value);
  d.emit(d.has("init") ? barrier_init : d.has("arrive") ? barrier_arrive : barrier_try);
  return true;
}

// cp.async.bulk.tensor.2d...mbarrier::complete_tx::bytes [to], [map, {x, y}], [barrier]
bool emit_tile(Decoder& d) {
  Instruction& i = d.instruction;
  if (!d.has("2d") || !d.has("global") || !d.has("mbarrier::complete_tx::bytes") || d.operands.size() != 3)
    return false;
  if (!d.has("shared::cluster") && !d.has("shared::cta")) return false;
  i.a = d.source(d.operands[0].list[0], 4);
  i.b = d.source(d.operands[1].list[0], 8);
  i.c = d.source(d.operands[2].list[0], 4);
  const Operand& at = d.operands[1].list.at(1);
  const std::vector<uint32_t> list = {d.source(at.list.at(0), 4), d.source(at.list.at(1), 4)};
  i.list = d.add_list(list);
  d.emit(copy_tile);
  return true;
}

MemoryBarrier& Block::barrier_at(uint32_t address, const Warp& w, const Instruction& i, int lane) {
  for (MemoryBarrier& b : memory_barriers)
    if (b.address == address) return b;
  fault("there is no mbarrier at " + std::to_string(address) + ": " + place_of(w, i, lane));
}
void Block::finish_phase(MemoryBarrier& b) {
  ++version;
  if (b.pending != 0 || b.bytes != 0) return;
  ++b.phase;
  b.pending = b.count;
}

void apply(Block& block, const TileCopy& copy) {
  MapContent map;
  std::memcpy(&map, reinterpret_cast<const void*>(copy.map), sizeof(map));
  const uint32_t row_bytes = map.box_columns * 2, bytes = row_bytes * map.box_rows;
  for (uint32_t r = 0; r < map.box_rows; ++r)
    for (uint32_t c = 0; c < map.box_columns; ++c) {
      const int64_t row = int64_t{copy.row} + r, column = int64_t{copy.column} + c;
      uint16_t value = 0;
      if (row >= 0 && column >= 0 && row < static_cast<int64_t>(map.rows) &&
          column < static_cast<int64_t>(map.columns)) {
        const uint64_t from =
            map.address + static_cast<uint64_t>(row) * map.stride + static_cast<uint64_t>(column) * 2;
        std::memcpy(&value, reinterpret_cast<const void*>(from), 2);
      }
      uint32_t to = copy.to + r * row_bytes + c * 2;
      if (map.swizzle == 3) to ^= (to >> 7 & 7) << 4;
      std::memcpy(block.shared.data() + (to - kSharedStart), &value, 2);
    }
  std::memset(block.shared_written.data() + (copy.to - kSharedStart), Memory::kWritten, bytes);
  std::memset(block.shared_unfenced.data() + (copy.to - kSharedStart), 0, bytes);
  for (MemoryBarrier& b : block.memory_barriers)
    if (b.address == copy.barrier) {
      b.bytes -= bytes;
      block.finish_phase(b);
    }
}

}  // namespace dpfa::ptx
