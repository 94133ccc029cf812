// The instructions for matrices and copies in the background, and the fences between them: PTX ISA 9.0,
// sections 9.7.13.4 (membar, fence) and 9.7.19.5 (setmaxnreg, which changes nothing here). Memory is
// sequentially consistent, so only fences between proxies have something to do.
#include "tests/ptx/tensor.h"

namespace dpfa::ptx {
namespace {

// What the host copied is known to the copy engine after an acquire of system scope by the block.
void acquire_map(Warp& w, const Instruction& i, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint64_t map = w.at<uint64_t>(i.a)[l];
    if (map % 64 != 0) fault("a tensor map is misaligned: " + place_of(w, i, l));
    w.block->acquired_maps.push_back(map);
  });
}
void fence_proxy(Warp& w, const Instruction&, uint32_t) {
  for (uint8_t& by : w.block->shared_unfenced)
    if (by == w.number + 1) by = 0;
}

}  // namespace

bool decode_tensor(Decoder& d) {
  const std::string& op = d.parts[0];
  Instruction& i = d.instruction;
  if (op == "cp" && d.has("async") && d.has("tensor")) return emit_tile(d);
  if (op == "cp" && d.has("async") && !d.has("bulk")) return emit_copy(d);
  if (op == "ldmatrix") return emit_ldmatrix(d);
  if (op == "mma") return emit_mma(d);
  if (op == "mbarrier") return emit_memory_barrier(d);
  if (op == "wgmma") return emit_wgmma(d);
  if (op == "setmaxnreg") {
    const uint64_t count = d.operands.at(0).value;
    if (count < 24 || count > 256 || count % 8 != 0) return false;
    i.flow = Flow::kConverge;
    d.emit([](Warp&, const Instruction&, uint32_t) {});
    return true;
  }
  if (op == "fence" && d.has("tensormap::generic")) {
    if (!d.has("acquire") || !d.has("sys") || d.operands.at(0).value != 0 || d.operands.at(1).value != 128)
      return false;
    i.a = d.source(d.operands[0].list.at(0), 8);
    d.emit(acquire_map);
    return true;
  }
  if (op == "fence" && d.has("proxy") && d.has("async")) {
    d.emit(fence_proxy);
    return true;
  }
  if (op == "membar" || op == "fence") {
    d.emit([](Warp&, const Instruction&, uint32_t) {});
    return true;
  }
  return false;
}

}  // namespace dpfa::ptx
