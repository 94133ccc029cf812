// Matrix products of one warp: PTX ISA 9.0, section 9.7.14 (ldmatrix, mma.m16n8k16 of bf16 with sums in f32).
#include <algorithm>
#include <bit>

#include "tests/ptx/tensor.h"

namespace dpfa::ptx {
namespace {

void add_four(const float* a, const float* b, int stride, int columns, double* c) {
  double terms[5][kMostColumns];
  int64_t largest[kMostColumns];
  const auto exponent = [](double v) {
    return static_cast<int64_t>(std::bit_cast<uint64_t>(v) >> 52 & 0x7FF);
  };
  for (int j = 0; j < columns; ++j) terms[4][j] = c[j], largest[j] = exponent(c[j]);
  for (int k = 0; k < 4; ++k)
    for (int j = 0; j < columns; ++j) {
      terms[k][j] = static_cast<double>(a[k]) * static_cast<double>(b[k * stride + j]);
      largest[j] = std::max(largest[j], exponent(terms[k][j]));
    }
  double sums[kMostColumns] = {};
  for (int k = 0; k < 5; ++k)
    for (int j = 0; j < columns; ++j) {
      const uint64_t bits = std::bit_cast<uint64_t>(terms[k][j]);
      const int64_t unit = std::max<int64_t>(largest[j] - 23, 1023 - 149),
                    drop = unit - exponent(terms[k][j]) + 52;
      const int64_t cut = std::min<int64_t>(std::max<int64_t>(drop, 0), 53);
      const uint64_t kept = cut > 52 ? 0 : bits & ~uint64_t{0} << cut;
      sums[j] += largest[j] == 0x7FF ? terms[k][j] : std::bit_cast<double>(kept);
    }
  for (int j = 0; j < columns; ++j) {  // to 24 bits; what is smaller than the least float was cut above
    const uint64_t bits = std::bit_cast<uint64_t>(sums[j]);
    c[j] = sums[j] - sums[j] != 0 ? sums[j] : std::bit_cast<double>(bits & ~((uint64_t{1} << 29) - 1));
  }
}

}  // namespace

void multiply_add(const float* a, const float* b, int stride, int columns, float* c, bool truncate) {
  double sums[kMostColumns];
  for (int j = 0; j < columns; ++j) sums[j] = c[j];
  if (truncate) {
    for (int k = 0; k < 16; k += 4) add_four(a + k, b + k * stride, stride, columns, sums);
  } else {
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < columns; ++j)
        sums[j] += static_cast<double>(a[k]) * static_cast<double>(b[k * stride + j]);
  }
  for (int j = 0; j < columns; ++j) c[j] = static_cast<float>(sums[j]);
}

namespace {

void check_read(const Warp& w, const Instruction& i, int lane, uint32_t address, uint32_t bytes) {
  w.block->use(address, bytes, Block::Access::kRead, w, i, lane);
  const uint8_t* shadow = w.block->shared_written.data() + (address - kSharedStart);
  for (uint32_t k = 0; k < bytes; ++k)
    if (shadow[k] == 0) {
      report(w, i, lane, "shared memory that nobody wrote is read");
      return;
    }
}

void load_matrices(Warp& w, const Instruction& i, uint32_t mask) {
  const auto& list = w.block->kernel->lists[i.list];
  const bool transposed = i.offset != 0;
  for (size_t m = 0; m < list.size(); ++m) {
    uint16_t rows[8][8];
    for (int r = 0; r < 8; ++r) {
      const int lane = static_cast<int>(8 * m) + r;
      const uint32_t address = w.at<uint32_t>(i.a)[lane] + static_cast<uint32_t>(i.target);
      if (address % 16 != 0) fault("ldmatrix is misaligned: " + place_of(w, i, lane));
      std::memcpy(rows[r], w.block->at(address, 16, w, i, lane), 16);
      check_read(w, i, lane, address, 16);
    }
    uint32_t out[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const int r = l / 4, c = l % 4 * 2;
      out[l] = transposed ? rows[c][r] | static_cast<uint32_t>(rows[c + 1][r]) << 16
                          : rows[r][c] | static_cast<uint32_t>(rows[r][c + 1]) << 16;
    }
    w.write(list[m], out, mask);
  }
}

// m16n8k16: registers d[4], a[4], b[2], c[4] in the list.
void mma(Warp& w, const Instruction& i, uint32_t mask) {
  const auto& list = w.block->kernel->lists[i.list];
  float a[16][16], b[16][8], c[16][8];
  for (int l = 0; l < kLanes; ++l) {
    const int g = l / 4, t = l % 4;
    for (int r = 0; r < 4; ++r) {  // a: rows g and g + 8, then the same 8 columns on
      const uint32_t v = w.at<uint32_t>(list[static_cast<size_t>(4 + r)])[l];
      for (int e = 0; e < 2; ++e)
        a[g + r % 2 * 8][t * 2 + e + r / 2 * 8] = from_bfloat16_bits(v >> (16 * e) & 0xFFFF);
      c[g + r / 2 * 8][t * 2 + r % 2] = w.at<float>(list[static_cast<size_t>(10 + r)])[l];
    }
    for (int r = 0; r < 2; ++r) {
      const uint32_t v = w.at<uint32_t>(list[static_cast<size_t>(8 + r)])[l];
      for (int e = 0; e < 2; ++e) b[t * 2 + e + r * 8][g] = from_bfloat16_bits(v >> (16 * e) & 0xFFFF);
    }
  }
  for (int r = 0; r < 16; ++r) multiply_add(a[r], b[0], 8, 8, c[r], options().truncate);
  for (int r = 0; r < 4; ++r) {
    float out[kLanes];
    for (int l = 0; l < kLanes; ++l) out[l] = c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
    w.write(list[static_cast<size_t>(r)], out, mask);
  }
}

}  // namespace

bool emit_ldmatrix(Decoder& d) {
  Instruction& i = d.instruction;
  if (!d.has("m8n8") || !d.has("b16") || !(d.has("shared") || d.has("shared::cta"))) return false;
  std::vector<uint32_t> list;
  for (const Operand& o : d.operands[0].list) list.push_back(o.place);
  i.list = d.add_list(list);
  i.a = d.source(d.operands[1].list[0], 4);
  i.target = static_cast<int32_t>(d.operands[1].value);
  i.offset = d.has("trans") ? 1 : 0;
  i.flow = Flow::kConverge;
  d.emit(load_matrices);
  return true;
}

bool emit_mma(Decoder& d) {
  Instruction& i = d.instruction;
  if (!d.has("m16n8k16") || !d.has("row") || !d.has("col")) return false;
  const size_t n = d.parts.size();
  if (d.parts[n - 4] != "f32" || d.parts[n - 3] != "bf16" || d.parts[n - 2] != "bf16" ||
      d.parts[n - 1] != "f32")
    return false;
  std::vector<uint32_t> list;
  for (const Operand& o : d.operands)
    for (const Operand& e : o.list) list.push_back(&o == &d.operands[0] ? e.place : d.source(e, 4));
  if (list.size() != 14) return false;
  i.list = d.add_list(list);
  i.flow = Flow::kConverge;
  d.emit(mma);
  return true;
}

}  // namespace dpfa::ptx
