// Control flow, barriers, shuffles, votes: PTX ISA 9.0, sections 9.7.12 (ret, exit), 9.7.13.1 and 9.7.13.2
// (bar, barrier), 9.7.9.6 (shfl.sync), 9.7.13.9 (vote.sync), 9.7.13.11 (activemask).
#include "tests/ptx/decoder.h"

namespace dpfa::ptx {

namespace {

template <int kMode>
void shuffle(Warp& w, const Instruction& i, uint32_t mask) {
  const uint32_t *a = w.at<uint32_t>(i.a), *b = w.at<uint32_t>(i.b), *c = w.at<uint32_t>(i.e);
  uint32_t out[kLanes];
  uint8_t inside[kLanes] = {};
  for_lanes(mask, [&](int l) {
    const int bound = static_cast<int>(c[l] & 31), segment = static_cast<int>(c[l] >> 8 & 31);
    const int largest = (l & segment) | (bound & ~segment), least = l & segment,
              by = static_cast<int>(b[l] & 31);
    int from;
    bool valid;
    if (kMode == 0)
      from = l + by, valid = from <= largest;  // down
    else if (kMode == 1)
      from = l - by, valid = from >= largest;  // up
    else if (kMode == 2)
      from = l ^ by, valid = from <= largest;  // bfly
    else
      from = least | (by & ~segment), valid = from <= largest;  // idx
    if (!valid) from = l;
    if ((mask >> from & 1) == 0) report(w, i, l, "a lane reads from one that does not take part");
    out[l] = a[from];
    inside[l] = valid ? 1 : 0;
  });
  w.write(i.d, out, mask);
  if (i.target >= 0) w.write(static_cast<uint32_t>(i.target), inside, mask);
}

bool emit_shuffle(Decoder& d) {
  Instruction& i = d.instruction;
  if (!d.has("sync") || !d.has("b32")) return false;
  i.flow = Flow::kConverge;
  i.d = d.destination(0);
  if (!d.operands[0].list.empty() && d.operands[0].list[0].kind == Kind::kRegister)
    i.target = static_cast<int32_t>(d.operands[0].list[0].place);
  i.a = d.source(1, 4), i.b = d.source(2, 4), i.e = d.source(3, 4), i.c = d.source(4, 4);
  d.emit(d.has("down") ? shuffle<0> : d.has("up") ? shuffle<1> : d.has("bfly") ? shuffle<2> : shuffle<3>);
  return true;
}

bool emit_vote(Decoder& d) {
  Instruction& i = d.instruction;
  if (!d.has("sync")) return false;
  i.flow = Flow::kConverge;
  i.d = d.destination(0), i.a = d.source(1, 1), i.c = d.source(2, 4);
  i.offset = (d.operands[1].negated ? 1 : 0);
  if (d.has("ballot")) {
    d.emit([](Warp& w, const Instruction& in, uint32_t mask) {
      uint32_t out[kLanes];
      const uint32_t votes = (in.offset != 0 ? ~w.predicate(in.a) : w.predicate(in.a)) & mask;
      for (uint32_t& v : out) v = votes;
      w.write(in.d, out, mask);
    });
  } else {
    if (d.has("all")) i.offset |= 2;
    if (d.has("uni")) return false;
    d.emit([](Warp& w, const Instruction& in, uint32_t mask) {
      uint8_t out[kLanes];
      const uint32_t votes = ((in.offset & 1) != 0 ? ~w.predicate(in.a) : w.predicate(in.a)) & mask;
      for (uint8_t& v : out) v = (in.offset & 2) != 0 ? votes == mask : votes != 0;
      w.write(in.d, out, mask);
    });
  }
  return true;
}

bool emit_barrier(Decoder& d) {
  Instruction& i = d.instruction;
  if (d.parts[0] == "bar" && d.has("warp")) {
    i.flow = Flow::kConverge;
    i.c = d.source(0, 4);
    d.emit([](Warp&, const Instruction&, uint32_t) {});
    return true;
  }
  if (!d.has("sync")) return false;
  i.flow = Flow::kBarrier;
  i.a = d.source(0, 4);
  if (d.operands.size() > 1) i.b = d.source(1, 4);
  d.emit([](Warp& w, const Instruction& in, uint32_t) {
    const uint32_t id = w.at<uint32_t>(in.a)[0], expected = in.b == kNone ? 0 : w.at<uint32_t>(in.b)[0];
    if (id >= 16 || expected % kLanes != 0)
      fault("barrier " + std::to_string(id) + ": " + place_of(w, in, 0));
    w.block->arrive(w, id, expected);
  });
  return true;
}

}  // namespace

bool decode_warp(Decoder& d) {
  const std::string& op = d.parts[0];
  Instruction& i = d.instruction;
  if (op == "ret" || op == "exit") {
    i.flow = Flow::kExit;
    d.emit(nullptr);
    return true;
  }
  if (op == "trap") {
    d.emit([](Warp& w, const Instruction& in, uint32_t mask) {
      fault("trap: " + place_of(w, in, __builtin_ctz(mask)));
    });
    return true;
  }
  if (op == "shfl") return emit_shuffle(d);
  if (op == "vote") return emit_vote(d);
  if (op == "bar" || op == "barrier") return emit_barrier(d);
  if (op == "activemask") {
    i.d = d.destination(0);
    d.emit([](Warp& w, const Instruction& in, uint32_t mask) {
      uint32_t out[kLanes];
      for (uint32_t& v : out) v = mask;
      w.write(in.d, out, mask);
    });
    return true;
  }
  return false;
}

}  // namespace dpfa::ptx
