// Matrix products of a warpgroup: PTX ISA 9.0, section 9.7.15 (wgmma.mma_async, m64nNk16 of bf16 with sums in
// f32, both operands in shared memory with the 128-byte swizzle). A warp
// computes its 16 rows.
#include <cstring>

#include "tests/ptx/tensor.h"

namespace dpfa::ptx {
namespace {

// Element (r, k) of an operand: byte offset from the start address, before the swizzle.
uint32_t element_offset(bool mn_major, uint32_t leading, uint32_t stride, uint32_t r, uint32_t k) {
  return mn_major ? r / 64 * leading + k / 8 * stride + k % 8 * 128 + r % 64 * 2
                  : r / 8 * stride + r % 8 * 128 + k * 2;
}

float element(const Warp& w, const Instruction& i, uint64_t descriptor, bool mn_major, uint32_t r,
              uint32_t k) {
  const auto field = [descriptor](int at) { return static_cast<uint32_t>(descriptor >> at & 0x3FFF) << 4; };
  uint32_t address = field(0) + element_offset(mn_major, field(16), field(32), r, k);
  address ^= (address >> 7 & 7) << 4;  // Swizzle<3, 4, 3> on addresses: the base offset is 0
  const uint8_t* p = w.block->at(address, 2, w, i, 0);
  const size_t at = static_cast<size_t>(address - kSharedStart);
  if (w.block->shared_written[at] == 0) report(w, i, 0, "shared memory that nobody wrote is multiplied");
  if (w.block->shared_unfenced[at] != 0)
    report(w, i, 0, "wgmma reads what was written without fence.proxy.async");
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return from_bfloat16_bits(bits);
}

void multiply(Warp& w, const Product& p) {
  const Instruction& i = *p.instruction;
  const auto& list = w.block->kernel->lists[i.list];
  const int columns = static_cast<int>(list.size()) * 2;
  const uint32_t first_row = static_cast<uint32_t>(w.number % 4) * 16;
  const bool a_mn = (i.offset & 1) != 0, b_mn = (i.offset & 2) != 0;
  float a[16][16], b[16][kMostColumns], c[16][kMostColumns];
  for (uint32_t k = 0; k < 16; ++k) {
    for (uint32_t r = 0; r < 16; ++r) a[r][k] = element(w, i, p.a, a_mn, first_row + r, k);
    for (uint32_t n = 0; n < static_cast<uint32_t>(columns); ++n) b[k][n] = element(w, i, p.b, b_mn, n, k);
  }
  for (size_t reg = 0; reg < list.size(); ++reg)
    for (int l = 0; l < kLanes; ++l) {
      const size_t r = static_cast<size_t>(l) / 4 + reg / 2 % 2 * 8,
                   n = reg / 4 * 8 + static_cast<size_t>(l) % 4 * 2 + reg % 2;
      c[r][n] = p.add ? w.at<float>(list[reg])[l] : 0;
    }
  for (int r = 0; r < 16; ++r) multiply_add(a[r], b[0], kMostColumns, columns, c[r], options().truncate);
  for (size_t reg = 0; reg < list.size(); ++reg)
    for (int l = 0; l < kLanes; ++l) {
      const size_t r = static_cast<size_t>(l) / 4 + reg / 2 % 2 * 8,
                   n = reg / 4 * 8 + static_cast<size_t>(l) % 4 * 2 + reg % 2;
      w.at<float>(list[reg])[l] = c[r][n];
    }
}

void multiply_async(Warp& w, const Instruction& i, uint32_t) {
  const Product p = {&i, w.at<uint64_t>(i.a)[0], w.at<uint64_t>(i.b)[0], w.at<uint8_t>(i.e)[0] != 0,
                     w.product_group};
  for (int l = 1; l < kLanes; ++l)
    if (w.at<uint64_t>(i.a)[l] != p.a || w.at<uint64_t>(i.b)[l] != p.b ||
        (w.at<uint8_t>(i.e)[l] != 0) != p.add)
      fault("the lanes of wgmma differ in descriptor or scale: " + place_of(w, i, l));
  for (const uint64_t descriptor : {p.a, p.b})
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0)
      fault("only descriptors with the 128-byte swizzle and base offset 0 are known: " + place_of(w, i, 0));
  if (w.block->warps.size() % 4 != 0) fault("a warpgroup is incomplete: " + place_of(w, i, 0));
  if (options().late)
    w.products.push_back(p);
  else
    multiply(w, p);
}

// wgmma.fence, .commit_group, .wait_group.
bool emit_groups(Decoder& d) {
  Instruction& i = d.instruction;
  if (d.has("fence")) {
    i.flow = Flow::kConverge;
    d.emit([](Warp&, const Instruction&, uint32_t) {});
    return true;
  }
  if (d.has("commit_group")) {
    i.flow = Flow::kConverge;
    d.emit([](Warp& w, const Instruction&, uint32_t) { ++w.product_group; });
    return true;
  }
  if (d.has("wait_group")) {
    i.flow = Flow::kConverge;
    i.offset = static_cast<int64_t>(d.operands.at(0).value);
    d.emit([](Warp& w, const Instruction& in, uint32_t) {
      while (!w.products.empty() && w.products.front().group < w.product_group - in.offset) {
        multiply(w, w.products.front());
        w.products.pop_front();
      }
    });
    return true;
  }
  return false;
}

}  // namespace

bool emit_wgmma(Decoder& d) {
  if (!d.has("mma_async")) return emit_groups(d);
  Instruction& i = d.instruction;
  const size_t n = d.parts.size();
  if (d.parts[n - 3] != "f32" || d.parts[n - 2] != "bf16" || d.parts[n - 1] != "bf16") return false;
  if (d.operands.size() != 8 || d.operands[0].kind != Kind::kVector || d.operands[1].kind != Kind::kRegister)
    return false;
  if (!d.has(("m64n" + std::to_string(2 * d.operands[0].list.size()) + "k16").c_str())) return false;
  if (d.operands[4].value != 1 || d.operands[5].value != 1) return false;
  std::vector<uint32_t> list;
  for (const Operand& o : d.operands[0].list) list.push_back(o.place);
  i.list = d.add_list(list);
  i.a = d.source(1, 8), i.b = d.source(2, 8), i.e = d.source(3, 1);
  i.offset = static_cast<int64_t>(d.operands[6].value | d.operands[7].value << 1);
  i.flow = Flow::kConverge;
  d.emit(multiply_async);
  return true;
}

}  // namespace dpfa::ptx
