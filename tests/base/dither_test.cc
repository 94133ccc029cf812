// Dithered rounding by enumeration: all dithers of all fractions, for one, two and three coordinates.
#include "src/base/random/dither.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "tests/support/statistics.h"

namespace dpfa {
namespace {

constexpr int kShift = 4;
constexpr int64_t kUnit = 1 << kShift;

// The words that stand for all dithers of kShift bits, each with other low bits, which must not matter.
uint32_t word_of(int64_t u) {
  return static_cast<uint32_t>(u << (32 - kShift)) | static_cast<uint32_t>(u * 99991 % 0x0FFFFFFF);
}

using Law = std::map<int64_t, int64_t>;  // difference to number of dithers
Law law_of(int64_t x, int64_t g) {
  Law law;
  for (int64_t u = 0; u < kUnit; ++u)
    ++law[dithered(x + g, kShift, word_of(u)) - dithered(x, kShift, word_of(u))];
  return law;
}

const std::vector<int64_t> kSums = {0,
                                    1,
                                    7,
                                    15,
                                    16,
                                    -1,
                                    -16,
                                    -23,
                                    1000003,
                                    -1000003,
                                    1LL << 30,
                                    -(1LL << 30) - 5,
                                    (1LL << 40) + 9,
                                    -(1LL << 61) + 1};

TEST(Dither, RoundsUpWithExactlyTheFraction) {
  for (int64_t x : kSums) {
    int64_t total = 0;
    for (int64_t u = 0; u < kUnit; ++u) {
      const int64_t rounded = dithered(x, kShift, word_of(u));
      EXPECT_TRUE(rounded == x >> kShift || rounded == (x >> kShift) + 1) << x;
      total += rounded;
    }
    EXPECT_EQ(total, x) << "the mean over all dithers is the sum itself";
  }
}

TEST(Dither, LawOfTheDifferenceOfNeighboursDoesNotDependOnTheSum) {
  for (int64_t g = -3 * kUnit; g <= 3 * kUnit; ++g) {
    const Law law = law_of(0, g);
    for (int64_t x : kSums) EXPECT_EQ(law_of(x, g), law) << x << " + " << g;
    const int64_t low = g >> kShift, above = g - low * kUnit;
    Law expected;
    if (above < kUnit) expected[low] = kUnit - above;
    if (above > 0) expected[low + 1] = above;
    EXPECT_EQ(law, expected) << g;
  }
}

// The negative control: rounding to the nearest, without a dither, moves a coordinate by up to one more than
// the contribution, by how much depends on the sum, and so do dithers that differ between the neighbours.
TEST(Dither, IsWhatKeepsARecordFromMovingEveryCoordinateByOneMore) {
  const auto nearest = [](int64_t x) { return (x + kUnit / 2) >> kShift; };
  for (const int64_t g : {int64_t{1}, kUnit / 2, 3 * kUnit - 1}) {
    int64_t least = g, most = 0, apart = 0;
    for (int64_t x = 0; x < kUnit; ++x) {
      least = std::min(least, nearest(x + g) - nearest(x));
      most = std::max(most, nearest(x + g) - nearest(x));
      for (int64_t u = 0; u < kUnit; ++u)
        for (int64_t v = 0; v < kUnit; ++v)
          apart = std::max(apart, dithered(x + g, kShift, word_of(u)) - dithered(x, kShift, word_of(v)));
    }
    EXPECT_EQ(most, (g >> kShift) + 1) << g;
    EXPECT_EQ(least, g >> kShift) << g;
    EXPECT_GT(apart * kUnit, g + kUnit / 2) << g;
  }
}

// Two and three coordinates with one dither each: the joint law is the product, whatever the sums are.
TEST(Dither, CoordinatesAreRoundedIndependently) {
  const std::array<int64_t, 3> g = {5, -7, 18};
  for (const std::array<int64_t, 3>& x :
       {std::array<int64_t, 3>{0, 0, 0}, {3, 1000003, -23}, {1LL << 40, -1, 15}}) {
    std::map<std::array<int64_t, 3>, int64_t> joint;
    for (int64_t a = 0; a < kUnit; ++a)
      for (int64_t b = 0; b < kUnit; ++b)
        for (int64_t c = 0; c < kUnit; ++c) {
          const std::array<int64_t, 3> u = {a, b, c};
          std::array<int64_t, 3> moved;
          for (size_t j = 0; j < 3; ++j)
            moved[j] = dithered(x[j] + g[j], kShift, word_of(u[j])) - dithered(x[j], kShift, word_of(u[j]));
          ++joint[moved];
        }
    int64_t total = 0;
    for (const auto& [moved, count] : joint) {
      int64_t product = 1;
      for (size_t j = 0; j < 3; ++j) product *= law_of(0, g[j])[moved[j]];
      EXPECT_EQ(count, product);
      total += count;
    }
    EXPECT_EQ(total, kUnit * kUnit * kUnit);
  }
}

TEST(Dither, KeepsEveryBitOfLargeSums) {
  const StreamKey key({1, 2, 3, 4, 5, 6, 7, 8});
  for (const int64_t base : {int64_t{1} << 35, -(int64_t{1} << 35), (int64_t{1} << 52) + 12}) {
    std::vector<int64_t> values(1 << 16);
    for (size_t i = 0; i < values.size(); ++i) values[i] = base + static_cast<int64_t>(i % 16);
    const std::vector<int64_t> before = values;
    dither(key, 3, 0, kShift, values);
    double up = 0, expected = 0, variance = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t rise = values[i] - (before[i] >> kShift);
      ASSERT_TRUE(rise == 0 || rise == 1) << before[i];
      up += static_cast<double>(rise);
      const double fraction = static_cast<double>(before[i] & (kUnit - 1)) / kUnit;
      expected += fraction;
      variance += fraction * (1 - fraction);
    }
    EXPECT_LT(std::abs(up - expected), testing::kZ7 * std::sqrt(variance)) << base;  // false alarm 1e-7
  }
}

TEST(Dither, IsTheDocumentedFunctionOfItsWordsWhateverTheRange) {
  const StreamKey key({8, 7, 6, 5, 4, 3, 2, 1});
  std::vector<int64_t> all(5000);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i * i) - 1000000;
  const std::vector<int64_t> before = all;
  dither(key, 11, 70, 7, all);
  std::vector<uint32_t> words(all.size());
  fill_words(key, 11, 70, words);
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], dithered(before[i], 7, words[i])) << i;
  std::vector<int64_t> part(before.begin() + 1000, before.begin() + 3100);
  dither(key, 11, 70 + 1000, 7, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 1000));
}

TEST(Dither, OfNoBitsChangesNothingAndOfThirtyTwoTakesTheWholeWord) {
  const StreamKey key({1, 1, 1, 1, 1, 1, 1, 1});
  std::vector<int64_t> values = {5, -7, 1LL << 40};
  const std::vector<int64_t> before = values;
  dither(key, 0, 0, 0, values);
  EXPECT_EQ(values, before);
  EXPECT_EQ(dithered(123, 0, 0xFFFFFFFF), 123);
  EXPECT_EQ(dithered((int64_t{3} << 32) | 1, 32, 0xFFFFFFFF), 4);
  EXPECT_EQ(dithered((int64_t{3} << 32) | 1, 32, 0xFFFFFFFE), 3);
  EXPECT_THROW(dither(key, 0, 0, 33, values), InternalError);
  EXPECT_THROW(dither(key, 0, 0, -1, values), InternalError);
}

}  // namespace
}  // namespace dpfa
