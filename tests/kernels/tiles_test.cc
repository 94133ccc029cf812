#include "kernels/tiles.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace dpfa::kernels {
namespace {

// Lengths on both sides of a tile's edge, with records that hold no token in front, between and behind.
const std::vector<std::vector<int64_t>> kLengths = {
    {}, {0}, {1}, {0, 5, 0}, {64}, {63, 64, 65}, {1, 129, 0, 0, 257, 2}, {1000, 1, 999, 3, 0}};

std::vector<int64_t> offsets_of(const std::vector<int64_t>& lengths, int64_t begin = 0) {
  std::vector<int64_t> offsets = {begin};
  for (int64_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

std::vector<int64_t> first_tasks(const std::vector<int64_t>& offsets, int64_t tile) {
  std::vector<int64_t> first(offsets.size());
  count_tasks(offsets.data(), static_cast<int64_t>(offsets.size()) - 1, tile, first.data());
  return first;
}

TEST(TilePair, IsTheInverseOfItsIndexAndListsTheTriangleRowByRow) {
  int64_t index = 0;
  for (int64_t row = 0; row < 300; ++row)
    for (int64_t column = 0; column <= row; ++column, ++index) {
      const TilePair pair = tile_pair(index);
      ASSERT_EQ(pair.row, row);
      ASSERT_EQ(pair.column, column);
      ASSERT_EQ(pair_index(pair), index);
    }
  EXPECT_EQ(triangle(300), index);
}

TEST(TilePair, IsExactWhereASquareRootInDoubleWouldRound) {
  for (const int64_t row : {(int64_t{1} << 26) + 1, (int64_t{1} << 30) - 1, (int64_t{1} << 31) - 2}) {
    EXPECT_EQ(tile_pair(triangle(row)).row, row);
    EXPECT_EQ(tile_pair(triangle(row) - 1).row, row - 1);
    EXPECT_EQ(tile_pair(triangle(row) - 1).column, row - 1);
    EXPECT_EQ(tile_pair(triangle(row) + row).column, row);
  }
}

TEST(TilePair, WeightsCountEveryEntryOfTheFullProductOnce) {
  for (const int64_t length : {1, 2, 63, 64, 65, 127, 128, 129, 257})
    for (const int64_t tile : {32, 64, 128}) {
      std::map<std::pair<int64_t, int64_t>, int> seen;
      for (int64_t i = 0; i < triangle(tiles_of(length, tile)); ++i) {
        const TilePair pair = tile_pair(i);
        for (int64_t t = pair.row * tile; t < std::min(length, (pair.row + 1) * tile); ++t)
          for (int64_t u = pair.column * tile; u < std::min(length, (pair.column + 1) * tile); ++u) {
            ++seen[{t, u}];
            if (pair_weight(pair) == 2) ++seen[{u, t}];
          }
      }
      ASSERT_EQ(static_cast<int64_t>(seen.size()), length * length);
      for (const auto& [entry, count] : seen) ASSERT_EQ(count, 1) << entry.first << " " << entry.second;
    }
}

TEST(TileTask, ListsEveryPairOfEveryExampleOfEveryMatrixOnce) {
  for (const auto& lengths : kLengths)
    for (const int64_t tile : {32, 64, 128}) {
      const std::vector<int64_t> offsets = offsets_of(lengths), first = first_tasks(offsets, tile);
      const int64_t examples = static_cast<int64_t>(lengths.size());
      constexpr int64_t kMatrices = 3;
      int64_t task = 0;
      for (int64_t matrix = 0; matrix < kMatrices; ++matrix)
        for (int64_t b = 0; b < examples; ++b)
          for (int64_t row = 0; row * tile < lengths[b]; ++row)
            for (int64_t column = 0; column <= row; ++column, ++task) {
              const TileTask got = tile_task(first.data(), examples, task);
              ASSERT_EQ(got.matrix, matrix);
              ASSERT_EQ(got.example, b);
              ASSERT_EQ(got.pair.row, row);
              ASSERT_EQ(got.pair.column, column);
            }
      EXPECT_EQ(task, kMatrices * first.back());
    }
}

TEST(TileTask, AnExamplesSlotsAreConsecutiveAndAsManyAsItsOwnLengthAsksFor) {
  for (const auto& lengths : kLengths) {
    const std::vector<int64_t> first = first_tasks(offsets_of(lengths, 17), 64);
    for (size_t b = 0; b < lengths.size(); ++b)
      EXPECT_EQ(first[b + 1] - first[b], triangle((lengths[b] + 63) / 64)) << b;
  }
}

TEST(OrderedSum, IsTheSumInTheDocumentedOrder) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  for (const int64_t count : {0, 1, 2, 31, 32, 33, 64, 1000}) {
    std::vector<double> values(count);
    for (double& v : values) v = normal(random) * std::pow(10.0, static_cast<double>(random() % 20));
    double lanes[32] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i % 32] += values[i];
    for (const int half : {16, 8, 4, 2, 1})
      for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    EXPECT_EQ(ordered_sum(values.data(), count), lanes[0]) << count;
  }
}

TEST(OrderedSum, OfASlotThatWasNeverWrittenIsNotANumber) {
  std::vector<float> values(100, 1.0f);
  EXPECT_EQ(ordered_sum(values.data(), 100), 100);
  for (const size_t missing : {0, 50, 99}) {
    std::vector<float> with_hole = values;
    with_hole[missing] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(ordered_sum(with_hole.data(), 100))) << missing;
  }
}

TEST(DepthStep, CoversEveryRowOnceInOrderAndNeverCrossesAnExample) {
  for (const auto& lengths : kLengths)
    for (const int64_t begin : {0, 40})
      for (const int64_t depth : {1, 16, 32, 64}) {
        const std::vector<int64_t> offsets = offsets_of(lengths, begin);
        const int64_t examples = static_cast<int64_t>(lengths.size());
        int64_t row = begin;
        std::set<int64_t> closed;
        DepthStep step = first_depth_step(offsets.data(), examples, depth);
        for (; step.example < examples; step = next_depth_step(offsets.data(), examples, depth, step)) {
          ASSERT_EQ(step.begin, row);
          ASSERT_GE(step.rows, 1);
          ASSERT_LE(step.rows, depth);
          ASSERT_GE(step.begin, offsets[step.example]);
          row += step.rows;
          ASSERT_LE(row, offsets[step.example + 1]);
          ASSERT_EQ(step.closes, row == offsets[step.example + 1]);
          if (step.closes) closed.insert(step.example);
        }
        EXPECT_EQ(row, offsets.back());
        for (int64_t b = 0; b < examples; ++b) EXPECT_EQ(closed.count(b), lengths[b] > 0 ? 1u : 0u);
      }
}

TEST(BandedTile, VisitsEveryTileOnceWithinOneBandAtATime) {
  for (const int64_t rows : {1, 7, 8, 9, 20})
    for (const int64_t columns : {1, 5, 16})
      for (const int64_t band : {1, 4, 8}) {
        std::set<std::pair<int64_t, int64_t>> seen;
        int64_t last_band = 0;
        for (int64_t i = 0; i < rows * columns; ++i) {
          const TilePair tile = banded_tile(i, rows, columns, band);
          ASSERT_TRUE(tile.row >= 0 && tile.row < rows && tile.column >= 0 && tile.column < columns);
          ASSERT_GE(tile.row / band, last_band);
          last_band = tile.row / band;
          seen.insert({tile.row, tile.column});
        }
        EXPECT_EQ(static_cast<int64_t>(seen.size()), rows * columns);
      }
}

}  // namespace
}  // namespace dpfa::kernels
