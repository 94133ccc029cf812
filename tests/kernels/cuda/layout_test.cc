// Where numbers lie in shared memory and registers, against the definitions of the instructions (PTX
// ISA 9.0): ldmatrix and mma.m16n8k16 are carried out on the host with the offsets that the kernels pass.
#include "kernels/cuda/tile_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "kernels/cuda/token_groups.h"
#include "src/base/error.h"

namespace dpfa::kernels::cuda {
namespace {

using Shared = std::vector<int16_t>;  // the kernels' bfloat16 numbers, here small integers
using Pair = std::array<int, 2>;

// ldmatrix.x4 [.trans]: lane 8 i + r passes the address of row r of matrix i. Without .trans lane l receives
// the elements 2 (l % 4), + 1 of row l / 4; with it those of column l / 4.
template <class Offset>
std::array<std::array<Pair, 4>, 32> ldmatrix(const Shared& shared, bool transposed, const Offset& offset) {
  std::array<std::array<Pair, 4>, 32> registers;
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 2; ++e) {
        const int row = transposed ? 2 * (lane % 4) + e : lane / 4;
        const int column = transposed ? lane / 4 : 2 * (lane % 4) + e;
        registers[lane][matrix][e] = shared[offset(8 * matrix + row) / 2 + column];
      }
  return registers;
}

// The product of the two operands of a stage as the warps of a block compute it: sums[row][column].
template <class Layout>
std::vector<std::vector<int>> block_product(const Shared& shared) {
  std::vector<std::vector<int>> sums(kTile, std::vector<int>(kTile));
  for (int warp = 0; warp < kWarps; ++warp)
    for (int k = 0; k < kDepth / 16; ++k)
      for (int m = 0; m < kFragments; ++m)
        for (int n = 0; n < kFragments; ++n) {
          const auto a =
              ldmatrix(shared, Layout::kTransposed, [&](int lane) { return Layout::left(warp, m, k, lane); });
          const auto b = ldmatrix(shared, Layout::kTransposed, [&](int lane) {
            return kOperandBytes + Layout::right(warp, n / 2, k, lane);
          });
          // The fragments of mma.m16n8k16: lane = 4 g + t.
          int left[16][16], right[16][8];
          for (int lane = 0; lane < 32; ++lane)
            for (int e = 0; e < 2; ++e) {
              const int g = lane / 4, t = 2 * (lane % 4) + e;
              left[g][t] = a[lane][0][e];
              left[g + 8][t] = a[lane][1][e];
              left[g][t + 8] = a[lane][2][e];
              left[g + 8][t + 8] = a[lane][3][e];
              right[t][g] = b[lane][n % 2 * 2][e];
              right[t + 8][g] = b[lane][n % 2 * 2 + 1][e];
            }
          for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
              const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
              int sum = 0;
              for (int d = 0; d < 16; ++d) sum += left[row][d] * right[d][column];
              const Entry at = mma_entry(warp, lane, m, n, i);
              sums[at.row][at.column] += sum;
            }
        }
  return sums;
}

// Fills one operand as the threads of a block copy it: value(row, column) of the operand in global memory.
template <class Layout, class Value>
void fill_operand(Shared& shared, int operand, const Value& value) {
  for (int thread = 0; thread < kThreads; ++thread)
    for (int i = 0; i < kChunksPerThread; ++i) {
      const Chunk c = chunk_of(thread, i, Layout::kChunksPerRow);
      for (int e = 0; e < 8; ++e)
        shared[(operand * kOperandBytes + chunk_offset(c.row, c.chunk, Layout::kChunksPerRow)) / 2 + e] =
            static_cast<int16_t>(value(c.row, 8 * c.chunk + e));
    }
}

TEST(TileProduct, OfOperandsWithTheDepthAlongTheirRowsIsTheProduct) {
  std::mt19937 random(1);
  std::vector<std::vector<int>> a(kTile, std::vector<int>(kDepth)), b = a;
  for (auto* matrix : {&a, &b})
    for (auto& row : *matrix)
      for (int& v : row) v = static_cast<int>(random() % 41) - 20;
  Shared shared(kStageBytes / 2, 9999);
  fill_operand<DepthAlongRows>(shared, 0, [&](int row, int column) { return a[row][column]; });
  fill_operand<DepthAlongRows>(shared, 1, [&](int row, int column) { return b[row][column]; });
  const auto sums = block_product<DepthAlongRows>(shared);
  for (int i = 0; i < kTile; ++i)
    for (int j = 0; j < kTile; ++j) {
      int expected = 0;
      for (int k = 0; k < kDepth; ++k) expected += a[i][k] * b[j][k];
      ASSERT_EQ(sums[i][j], expected) << i << " " << j;
    }
}

TEST(TileProduct, OfOperandsWithTheDepthAcrossTheirRowsIsTheProduct) {
  std::mt19937 random(2);
  std::vector<std::vector<int>> a(kDepth, std::vector<int>(kTile)), b = a;
  for (auto* matrix : {&a, &b})
    for (auto& row : *matrix)
      for (int& v : row) v = static_cast<int>(random() % 41) - 20;
  Shared shared(kStageBytes / 2, 9999);
  fill_operand<DepthAcrossRows>(shared, 0, [&](int row, int column) { return a[row][column]; });
  fill_operand<DepthAcrossRows>(shared, 1, [&](int row, int column) { return b[row][column]; });
  const auto sums = block_product<DepthAcrossRows>(shared);
  for (int i = 0; i < kTile; ++i)
    for (int j = 0; j < kTile; ++j) {
      int expected = 0;
      for (int k = 0; k < kDepth; ++k) expected += a[k][i] * b[k][j];
      ASSERT_EQ(sums[i][j], expected) << i << " " << j;
    }
}

template <class Layout>
void expect_no_bank_conflict() {
  // Eight lanes at a time move 16 bytes each: all 32 banks exactly when their chunks differ modulo 8.
  const auto expect_distinct = [](const auto& offset) {
    for (int first = 0; first < 32; first += 8) {
      std::set<int> banks;
      for (int lane = first; lane < first + 8; ++lane) banks.insert(offset(lane) / 16 % 8);
      EXPECT_EQ(banks.size(), 8u);
    }
  };
  for (int warp = 0; warp < kWarps; ++warp) {
    for (int k = 0; k < kDepth / 16; ++k) {
      for (int m = 0; m < kFragments; ++m)
        expect_distinct([&](int lane) { return Layout::left(warp, m, k, lane); });
      for (int n = 0; n < kFragments / 2; ++n)
        expect_distinct([&](int lane) { return Layout::right(warp, n, k, lane); });
    }
    for (int i = 0; i < kChunksPerThread; ++i)
      expect_distinct([&](int lane) {
        const Chunk c = chunk_of(32 * warp + lane, i, Layout::kChunksPerRow);
        return chunk_offset(c.row, c.chunk, Layout::kChunksPerRow);
      });
  }
}

TEST(SharedMemory, IsReadAndWrittenWithoutBankConflicts) {
  expect_no_bank_conflict<DepthAlongRows>();
  expect_no_bank_conflict<DepthAcrossRows>();
}

TEST(SharedMemory, ChunksOfAnOperandFillItOnceAndStayInside) {
  for (const int per_row : {8, 16}) {
    std::set<int> offsets;
    for (int thread = 0; thread < kThreads; ++thread)
      for (int i = 0; i < kChunksPerThread; ++i) {
        const Chunk c = chunk_of(thread, i, per_row);
        const int offset = chunk_offset(c.row, c.chunk, per_row);
        EXPECT_TRUE(offset >= 0 && offset % 16 == 0 && offset + 16 <= kOperandBytes);
        offsets.insert(offset);
      }
    EXPECT_EQ(offsets.size(), static_cast<size_t>(kOperandBytes / 16));
  }
}

TEST(SharedMemory, HasTheSwizzleOfTensorMapsWhereRowsHave128Bytes) {
  // CU_TENSOR_MAP_SWIZZLE_128B: address bits 4..6 are combined with bits 7..9.
  for (int row = 0; row < kTile; ++row)
    for (int chunk = 0; chunk < 8; ++chunk) {
      const int plain = row * 128 + chunk * 16;
      EXPECT_EQ(chunk_offset(row, chunk, 8), plain ^ (plain >> 3 & 0x70));
    }
}

TEST(SharedMemory, CopiesEndAtTheLastNumberOfARow) {
  for (int left = -9; left < 30; ++left) {
    int numbers = 0;
    for (int e = 0; e < 8; ++e) numbers += e < left;
    EXPECT_EQ(chunk_bytes(left), 2 * numbers) << left;
  }
}

TEST(Registers, OfABlockHoldEveryEntryOfTheTileOnce) {
  std::set<std::pair<int, int>> seen;
  for (int warp = 0; warp < kWarps; ++warp)
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4 * kFragments * kFragments; ++i) {
        const Entry at = mma_entry(warp, lane, i / (4 * kFragments), i / 4 % kFragments, i % 4);
        ASSERT_TRUE(at.row >= 0 && at.row < kTile && at.column >= 0 && at.column < kTile);
        seen.insert({at.row, at.column});
      }
  EXPECT_EQ(seen.size(), static_cast<size_t>(kTile * kTile));
}

TEST(Registers, OfAWarpgroupAreThoseOfItsDefinition) {
  // PTX ISA, figure "WGMMA .m64nNk16 register fragment layout for accumulator matrix D": warp w holds rows
  // 16 w ..., d(i) of lane 4 g + t lies in row g, or g + 8 for i % 4 >= 2, and column 8 (i / 4) + 2 t + i
  // % 2.
  std::set<std::pair<int, int>> seen;
  for (int warp = 0; warp < 4; ++warp)
    for (int g = 0; g < 8; ++g)
      for (int t = 0; t < 4; ++t)
        for (int i = 0; i < 64; ++i) {
          const Entry at = wgmma_entry(32 * warp + 4 * g + t, i);
          ASSERT_EQ(at.row, 16 * warp + g + (i % 4 >= 2 ? 8 : 0));
          ASSERT_EQ(at.column, 8 * (i / 4) + 2 * t + i % 2);
          seen.insert({at.row, at.column});
        }
  EXPECT_EQ(seen.size(), static_cast<size_t>(64 * kTile));
}

TEST(SharedMemory, OfTransposedWgmmaOperandsHoldsEveryNumberWhereItsDescriptorLooks) {
  // PTX ISA, "Canonical layouts" of matrix descriptors: an operand whose side runs along rows of 128 bytes
  // has number (side, depth) at side % 64 in row depth % 8 of a pattern of 1024 bytes, patterns of further
  // depths the stride offset apart (kPatternBytes), of further sides the leading offset (kHalfOperand). A
  // copy of 64 columns puts its rows of 128 bytes one behind the other; both swizzle chunks of 16 bytes
  // alike.
  std::set<int> seen;
  for (int depth = 0; depth < kDepth; ++depth)
    for (int side = 0; side < kTile; ++side) {
      const int product = depth / 16, within = depth % 16;
      const int described = 2 * kPatternBytes * product + within / 8 * kPatternBytes + within % 8 * 128 +
                            side % 64 * 2 + side / 64 * kHalfOperand;
      ASSERT_EQ(described, side / 64 * kHalfOperand + depth * 128 + side % 64 * 2) << side << ", " << depth;
      seen.insert(described);
    }
  EXPECT_EQ(seen.size(), static_cast<size_t>(kTile * kDepth));
}

TEST(GramStep, ListsEveryColumnOfTheInputsAndOfEveryGroupOnce) {
  for (const int inputs : {1, 63, 64, 65, 200})
    for (const int width : {8, 64, 72, 130})
      for (const int groups : {1, 2, 3}) {
        const GramShape shape = {inputs, width, groups};
        int step = 0;
        for (int part = -1; part < groups; ++part) {
          const int columns = part < 0 ? inputs : width, first = part < 0 ? 0 : part * width;
          for (int column = 0; column < columns; column += kDepth, ++step) {
            const GramStep s = gram_step(shape, step);
            ASSERT_EQ(s.of_gradient, part >= 0);
            ASSERT_EQ(s.group, std::max(part, 0));
            ASSERT_EQ(s.column, first + column);
            ASSERT_EQ(s.left, columns - column);
            ASSERT_EQ(s.closes, column + kDepth >= columns);
          }
        }
        EXPECT_EQ(shape.steps(), step);
      }
}

TEST(TokenGroups, AreTheRowsOfEachExampleById) {
  std::mt19937 random(3);
  for (const std::vector<int64_t>& lengths :
       {std::vector<int64_t>{}, {0}, {1}, {7, 0, 30}, {100, 3}, {5, 5, 5, 5}}) {
    std::vector<int64_t> offsets = {0}, ids;
    for (int64_t length : lengths) offsets.push_back(offsets.back() + length);
    for (int64_t t = 0; t < offsets.back(); ++t) ids.push_back(random() % 11);
    const TokenGroups groups = token_groups(ids, offsets);
    ASSERT_EQ(groups.first_group.size(), offsets.size());
    ASSERT_EQ(groups.first_position.size(), groups.ids.size() + 1);
    int64_t next = 0;
    for (size_t b = 0; b < lengths.size(); ++b)
      for (int64_t id = 0; id < 11; ++id) {
        std::vector<int64_t> expected;
        for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t)
          if (ids[t] == id) expected.push_back(t);
        if (expected.empty()) continue;
        ASSERT_TRUE(next >= groups.first_group[b] && next < groups.first_group[b + 1]);
        ASSERT_EQ(groups.ids[next], id);
        const std::vector<int64_t> got(groups.positions.begin() + groups.first_position[next],
                                       groups.positions.begin() + groups.first_position[next + 1]);
        ASSERT_EQ(got, expected);
        ++next;
      }
    EXPECT_EQ(next, static_cast<int64_t>(groups.ids.size()));
  }
}

TEST(TokenGroups, RefuseExamplesThatEndBeyondTheIds) {
  const std::vector<int64_t> ids = {1, 2}, offsets = {0, 3};
  EXPECT_THROW(token_groups(ids, offsets), InternalError);
}

}  // namespace
}  // namespace dpfa::kernels::cuda
