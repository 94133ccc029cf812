// Where the numbers of a tile product lie: in shared memory, in the registers of mma.sync and wgmma, and in
// the list of depth steps of a Gram tile. Index arithmetic of the kernels, checked on the host against the
// instructions' definitions (PTX ISA 9.0, sections 9.7.15 and 9.7.16).
//
// A block of 256 threads (8 warps, 2 x 4) forms 128 x 128 sums; each warp 64 x 32 of them as 4 x 4 fragments
// of m16n8k16. Every depth step is 64 deep. An operand of a step is 16 KB of shared memory, in chunks of 16
// bytes (8 numbers of bfloat16) that are swizzled so that ldmatrix meets no bank conflict.
#pragma once

#include "kernels/tiles.h"

namespace dpfa::kernels::cuda {

inline constexpr int kTile = 128;
inline constexpr int kDepth = 64;
inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kFragments = 4;  // of 16 rows, and of 8 columns, per warp
inline constexpr int kOperandBytes = kTile * kDepth * 2;
inline constexpr int kStageBytes = 2 * kOperandBytes;
inline constexpr int kHalfOperand = kOperandBytes / 2;  // 64 rows, or 64 columns, of the tile
inline constexpr int kPatternBytes = 1024;              // of the 128-byte swizzle: eight rows
inline constexpr int kChunksPerThread = kOperandBytes / 16 / kThreads;

// Byte offset of chunk `chunk` of row `row`. With 8 chunks a row this is the 128-byte swizzle of the tensor
// map.
DPFA_HOST_DEVICE constexpr int chunk_offset(int row, int chunk, int chunks_per_row) {
  return (row * chunks_per_row + (chunk ^ (row & 7))) * 16;
}

struct Chunk {
  int row, chunk;
};
// The chunks that thread `thread` copies, i in [0, kChunksPerThread).
DPFA_HOST_DEVICE constexpr Chunk chunk_of(int thread, int i, int chunks_per_row) {
  const int number = i * kThreads + thread;
  return {number / chunks_per_row, number % chunks_per_row};
}
// Bytes of a 16-byte chunk that hold numbers: `left` numbers remain in the row from the chunk's first on.
DPFA_HOST_DEVICE constexpr int chunk_bytes(int32_t left) { return left >= 8 ? 16 : left <= 0 ? 0 : 2 * left; }

DPFA_HOST_DEVICE constexpr int warp_row(int warp) { return warp / 4 * 64; }
DPFA_HOST_DEVICE constexpr int warp_column(int warp) { return warp % 4 * 32; }

// The offset that `lane` passes to ldmatrix for fragment m of the left operand, or for the pair of fragments
// 2 n, 2 n + 1 of the right operand, at depth [16 k, 16 k + 16). Both layouts put the variable part of a
// chunk's number into its low three bits, where the swizzle is an exclusive or: what is not a lane's own
// folds into constants.

// Operands whose rows are the tile's rows, depth along the row: (128 rows) x (64 deep), 8 chunks a row. For
// ldmatrix without .trans.
struct DepthAlongRows {
  static constexpr int kChunksPerRow = 8;
  static constexpr bool kTransposed = false;
  DPFA_HOST_DEVICE static constexpr int left(int warp, int m, int k, int lane) {
    const int first = chunk_offset(warp_row(warp) + lane % 16, lane / 16, kChunksPerRow);
    return (first ^ (32 * k)) + m * 16 * kChunksPerRow * 16;
  }
  DPFA_HOST_DEVICE static constexpr int right(int warp, int n, int k, int lane) {
    const int row = warp_column(warp) + lane / 16 * 8 + lane % 8;
    return (chunk_offset(row, lane / 8 % 2, kChunksPerRow) ^ (32 * k)) + n * 16 * kChunksPerRow * 16;
  }
};

// Operands whose rows are the depth: (64 deep) x (128 columns of the tile), 16 chunks a row. For
// ldmatrix.trans.
struct DepthAcrossRows {
  static constexpr int kChunksPerRow = 16;
  static constexpr bool kTransposed = true;
  DPFA_HOST_DEVICE static constexpr int left(int warp, int m, int k, int lane) {
    const int first =
        chunk_offset(lane / 16 * 8 + lane % 8, warp_row(warp) / 8 + lane / 8 % 2, kChunksPerRow);
    return (first ^ (32 * m)) + k * 16 * kChunksPerRow * 16;
  }
  DPFA_HOST_DEVICE static constexpr int right(int warp, int n, int k, int lane) {
    const int first =
        chunk_offset(lane / 8 % 2 * 8 + lane % 8, warp_column(warp) / 8 + lane / 16, kChunksPerRow);
    return (first ^ (32 * n)) + k * 16 * kChunksPerRow * 16;
  }
};

struct Entry {
  int row, column;
};
// Place in the tile of register i (0..3) of fragment (m, n).
DPFA_HOST_DEVICE constexpr Entry mma_entry(int warp, int lane, int m, int n, int i) {
  return {warp_row(warp) + 16 * m + lane / 4 + i / 2 * 8, warp_column(warp) + 8 * n + lane % 4 * 2 + i % 2};
}
// Place in a 64 x 128 product of wgmma of register i (0..63) of thread `thread` (0..127) of its warpgroup.
DPFA_HOST_DEVICE constexpr Entry wgmma_entry(int thread, int i) {
  return {thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, i / 4 * 8 + thread % 4 * 2 + i % 2};
}

// The depth steps of a Gram tile: first the inputs, then the output gradient group by group. `groups` divide
// the outputs into equal blocks with a norm each (heads; query, key and value), which share the Gram of the
// inputs.
struct GramShape {
  int32_t inputs, group_width, groups;
  DPFA_HOST_DEVICE constexpr int32_t input_steps() const { return (inputs + kDepth - 1) / kDepth; }
  DPFA_HOST_DEVICE constexpr int32_t group_steps() const { return (group_width + kDepth - 1) / kDepth; }
  DPFA_HOST_DEVICE constexpr int32_t steps() const { return input_steps() + groups * group_steps(); }
};
struct GramStep {
  bool of_gradient;
  int32_t group;   // 0 for the inputs
  int32_t column;  // first column in the operand
  int32_t left;    // columns from there to the end of the inputs or of the group: at least 1
  bool closes;     // the Gram entries of the inputs, or of the group, are complete
};
DPFA_HOST_DEVICE constexpr GramStep gram_step(const GramShape& shape, int32_t step) {
  const int32_t inputs = shape.input_steps();
  if (step < inputs) return {false, 0, step * kDepth, shape.inputs - step * kDepth, step + 1 == inputs};
  const int32_t width = shape.group_width, per_group = shape.group_steps();
  const int32_t group = (step - inputs) / per_group, column = (step - inputs) % per_group * kDepth;
  return {true, group, group * width + column, width - column, column + kDepth >= width};
}

}  // namespace dpfa::kernels::cuda
