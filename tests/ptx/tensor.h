// Sums of tensor cores, and the instruction groups that decode_tensor joins: each returns false where the
// instruction is not known.
#pragma once

#include <bit>
#include <cstdint>

#include "tests/ptx/decoder.h"

namespace dpfa::ptx {

// The most columns of one product.
inline constexpr int kMostColumns = 128;

// c[j] += sum over k < 16 of a[k] b[k][j], j < columns <= kMostColumns, as tensor cores add in f32; b has
// rows of `stride` numbers. `truncate`: the model of Fasi, Higham, Mikaitis, Pranesh 2021 (PeerJ CS 7:e330):
// four products at a time join the running sum, every addend cut to 24 bits below the largest, the result cut
// to f32. Otherwise one rounding at the end.
void multiply_add(const float* a, const float* b, int stride, int columns, float* c, bool truncate);

inline float from_bfloat16_bits(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// What cuTensorMapEncodeTiled leaves in the 128 bytes of a map.
struct MapContent {
  uint64_t magic, address, columns, rows, stride;  // stride in bytes
  uint32_t box_columns, box_rows, swizzle;         // swizzle 0: none, 3: 128 bytes
};
inline constexpr uint64_t kMapMagic = 0x70616D726F736E74;

bool emit_copy(Decoder& d);            // copies.cc: cp.async
bool emit_tile(Decoder& d);            // copies.cc: cp.async.bulk.tensor
bool emit_memory_barrier(Decoder& d);  // copies.cc: mbarrier
bool emit_ldmatrix(Decoder& d);        // matrices.cc
bool emit_mma(Decoder& d);             // matrices.cc
bool emit_wgmma(Decoder& d);           // wgmma.cc

}  // namespace dpfa::ptx
