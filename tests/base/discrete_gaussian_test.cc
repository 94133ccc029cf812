#include "src/base/random/discrete_gaussian.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/cpu_dispatch.h"
#include "src/base/random/share_lanes.h"
#include "tests/base/alias_table.h"
#include "tests/support/statistics.h"

namespace dpfa {
namespace {

using dpfa::testing::kZ7;
using dpfa::testing::Law;
using dpfa::testing::value_of;

StreamKey key_of(uint64_t seed) { return RootKey::from_insecure_seed(seed).stream(Purpose::kNoise); }

std::vector<int64_t> samples(const DiscreteGaussian& law, uint64_t step, uint64_t first, size_t count) {
  std::vector<int64_t> out(count);
  law.fill(key_of(1), step, first, out);
  return out;
}

// What the words of a group hold, read from alias_draw.h's description.
struct GroupWords {
  std::vector<uint32_t> words;
  size_t levels;

  GroupWords(uint64_t step, uint64_t group, size_t level_count)
      : words(16 * (1 + 10 * level_count)), levels(level_count) {
    fill_words(key_of(1), step, group * words.size(), words);
  }
  uint64_t number(size_t w) const { return words[w] | uint64_t{words[w + 1]} << 32; }
  uint64_t high(size_t draw) const { return number(16 * (1 + 2 * levels) + 2 * draw); }
  uint64_t low(size_t draw) const {
    const uint64_t middle = words[16 + draw / 2] >> 16 * (draw % 2) & 0xFFFF;
    return number(0) << 16 >> 16 | middle << 48;
  }
};

TEST(DiscreteGaussian, SamplesOfEveryInstructionSetAreTheDocumentedFunctionOfTheWords) {
  for (const double stddev : {3.0, 1000.0, 0x1p20, 0x1p24, 0x1p40}) {
    const DiscreteGaussian law(stddev);
    const size_t levels = law.weights().size();
    for (const uint64_t first : {uint64_t{0}, (uint64_t{1} << 50) + 5}) {
      std::vector<int64_t> expected(2100);
      for (uint64_t i = first; i < first + expected.size(); ++i) {
        const GroupWords group(7, i / 64, levels);
        for (size_t l = 0; l < levels; ++l) {
          const size_t draw = levels * (i % 64) + l;
          expected[i - first] += law.weights()[l] * value_of(law, group.high(draw), group.low(draw));
        }
      }
      for (const CpuPath path : available_cpu_paths()) {
        set_cpu_path(path);
        EXPECT_EQ(samples(law, 7, first, expected.size()), expected) << stddev << ", " << to_string(path);
      }
    }
  }
  set_cpu_path(available_cpu_paths().back());
}

// RankContribution's noise as a CUDA device makes it, for a table of 2^bits rows.
std::array<uint32_t, 16> device_lanes(const std::vector<int64_t>& weights, const std::vector<uint64_t>& table,
                                      int bits, uint64_t step, uint64_t first) {
  random_internal::ShareTables share = {};
  const StreamKey key = key_of(1);
  std::copy_n(key.words().begin(), 8, share.noise_key);
  share.draw = step;
  share.levels = static_cast<int32_t>(weights.size());
  share.table_bits = bits;
  share.weights = weights.data();
  share.table = table.data();
  std::array<uint32_t, 16> lanes;
  random_internal::noise_lanes(share, first, lanes.data(), 1);
  return lanes;
}

// Lower bits decide one draw in 2^48: in tables of which a row's border ends as a chosen draw's place does,
// or one above it, they decide that draw. All other rows give 0.
TEST(DiscreteGaussian, LowerBitsOfEveryDrawAreSixteenOfItsOwnAndThoseOfItsGroup) {
  constexpr int kBits = 15;
  constexpr uint64_t kPlaces = ~uint64_t{1} << kBits >> kBits;
  int checked = 0;
  for (const size_t levels : {1, 2, 3, 4})
    for (const uint64_t group : {0, 1, 15, 16, 17, 40})
      for (size_t sample = 0; sample < 64; sample += 3) {
        const std::vector<int64_t> weights(levels, 1);
        const GroupWords words(9, group, levels);
        const size_t draw = levels * sample + sample / 3 % levels;
        const uint64_t high = words.high(draw), row = high >> (64 - kBits);
        bool alone = true;
        for (size_t d = levels * sample; d < levels * (sample + 1); ++d)
          alone &= d == draw || words.high(d) >> (64 - kBits) != row;
        if (!alone) continue;
        ++checked;
        for (const uint64_t above : {0, 1}) {
          std::vector<uint64_t> table(2 << kBits);
          table[2 * row] = words.low(draw) + above;
          table[2 * row + 1] = (high & kPlaces) | (row ^ 1) << (64 - kBits);
          const auto value = static_cast<int64_t>(above == 1 ? row : row ^ 1);
          const int64_t expected = high % 2 == 1 ? -value : value;
          const uint64_t i = 64 * group + sample, before = 64 * group - group % 3;
          for (const CpuPath path : available_cpu_paths()) {
            set_cpu_path(path);
            std::vector<int64_t> drawn(1200);
            random_internal::fill_samples(weights, table, key_of(1), 9, before, drawn);
            ASSERT_EQ(drawn[i - before], expected) << to_string(path) << ", " << levels << " levels, " << i;
          }
          const auto lanes = device_lanes(weights, table, kBits, 9, i / 16 * 16);
          ASSERT_EQ(static_cast<int32_t>(lanes[i % 16]), expected) << levels << " levels, " << i;
        }
      }
  EXPECT_GT(checked, 500);
  set_cpu_path(available_cpu_paths().back());
}

// Where the upper bits of a place and its row's border agree the lower ones decide, from the first to the
// last.
TEST(DiscreteGaussian, DrawsBesideABorderAreThoseOfEveryInstructionSet) {
  const DiscreteGaussian law(1000);
  const int bits = std::countr_zero(law.rows());
  for (size_t r = 0; r < law.rows(); ++r) {
    const uint64_t border = law.table()[2 * r + 1] << bits >> bits, row = uint64_t{r} << (64 - bits);
    const uint64_t lower = law.table()[2 * r];
    std::vector<uint64_t> lows = {lower, lower - 1, lower + 1, ~lower};
    for (const int bit : {0, 1, 31, 32, 47, 48, 62, 63}) lows.push_back(lower ^ uint64_t{1} << bit);
    for (const uint64_t low : lows) {
      GroupWords group(0, 0, 1);
      group.words[0] = static_cast<uint32_t>(low);
      group.words[1] = static_cast<uint32_t>(low >> 32);
      std::vector<int64_t> expected, drawn(8);
      size_t draw = 0;
      for (const uint64_t place : {border, border - 2, border + 2, ~border})
        for (const uint64_t sign : {0, 1}) {
          const uint64_t high = row | (place << bits >> bits >> 1 << 1) | sign;
          group.words[48 + 2 * draw] = static_cast<uint32_t>(high);
          group.words[48 + 2 * draw + 1] = static_cast<uint32_t>(high >> 32);
          group.words[16 + draw / 2] = static_cast<uint32_t>(low >> 48) * 0x10001u;
          expected.push_back(value_of(law, high, low));
          ++draw;
        }
      for (const CpuPath path : available_cpu_paths()) {
        set_cpu_path(path);
        random_internal::active_backend().discrete_draws(law.table().data(), bits, group.words.data(), 1,
                                                         drawn.size(), drawn.data());
        ASSERT_EQ(drawn, expected) << to_string(path) << ", row " << r << ", low " << low;
      }
    }
  }
  set_cpu_path(available_cpu_paths().back());
}

TEST(DiscreteGaussian, SamplesDependOnTheirIndexAndNotOnTheRangeAskedFor) {
  const DiscreteGaussian law(5000);
  const std::vector<int64_t> all = samples(law, 2, 0, 4000);
  for (const size_t begin : {0, 1, 63, 64, 65, 200, 1000, 1023, 1024})
    for (const size_t count : {0, 1, 17, 64, 129, 300, 1024, 2500}) {
      const std::vector<int64_t> part = samples(law, 2, begin, count);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<ptrdiff_t>(begin)));
    }
  EXPECT_NE(samples(law, 3, 0, 4000), all);
}

TEST(DiscreteGaussian, CountsOfSmallValuesAreThoseOfTheLaw) {
  // A chi-square of 24 degrees of freedom exceeds 85 with probability 1e-8: false-alarm rate 3e-8.
  constexpr size_t kCount = 1 << 20;
  for (const double stddev : {1.0, 4.0, 30.0}) {
    const DiscreteGaussian law(stddev);
    const Law exact(law.stddev());
    std::vector<double> counts(25);
    double inside = 0;
    for (const int64_t x : samples(law, 3, 0, kCount))
      if (std::abs(x) <= 12) counts[static_cast<size_t>(x + 12)] += 1, ++inside;
    double chi_square = 0;
    for (int64_t k = -12; k <= 12; ++k) {
      const double expected = kCount * exact.probability(k).convert_to<double>();
      if (expected < 5) continue;
      const double difference = counts[static_cast<size_t>(k + 12)] - expected;
      chi_square += difference * difference / expected;
    }
    EXPECT_LT(chi_square, 85) << stddev;
    EXPECT_GT(inside, 0);
  }
}

TEST(DiscreteGaussian, MomentsAndTailsOfLargeStandardDeviationsAreThoseOfANormal) {
  // Six comparisons at 1e-7 for each standard deviation.
  constexpr size_t kCount = 1 << 20;
  for (const double stddev : {35.0, 2000.0, 0x1.8p20, 0x1p39}) {
    const DiscreteGaussian law(stddev);
    double sum = 0, squares = 0, fourths = 0, positive = 0, nonzero = 0;
    int above3 = 0;
    for (const int64_t x : samples(law, 4, 0, kCount)) {
      const double z = static_cast<double>(x) / law.stddev(), square = z * z;
      sum += z;
      squares += square;
      fourths += square * square;
      positive += x > 0;
      nonzero += x != 0;
      above3 += std::abs(z) > 4;
    }
    const double n = kCount, root = std::sqrt(n);
    EXPECT_LT(std::abs(sum / root), kZ7) << stddev;
    EXPECT_LT(std::abs((squares - n) / (std::sqrt(2.0) * root)), kZ7) << stddev;
    EXPECT_LT(std::abs((fourths - 3 * n) / (std::sqrt(96.0) * root)), kZ7) << stddev;
    EXPECT_LT(std::abs((positive - nonzero / 2) / (std::sqrt(nonzero) / 2)), kZ7) << stddev;
    const double tail = n * dpfa::testing::two_sided_tail(4);
    if (stddev > 1000) {  // below that an integer on the border weighs in
      EXPECT_GT(dpfa::testing::poisson_tail(tail, above3), 0.5e-7) << stddev << ": " << above3;
    }
  }
}

TEST(DiscreteGaussian, StreamsOfTwoSamplesAndOfTwoStepsAreUncorrelated) {
  // Three comparisons at 1e-7.
  const DiscreteGaussian law(5000);
  const std::vector<int64_t> base = samples(law, 1, 0, 1 << 19), other = samples(law, 2, 0, 1 << 19);
  const auto correlation = [&](const std::vector<int64_t>& a, const std::vector<int64_t>& b, size_t lag) {
    double product = 0;
    for (size_t i = lag; i < a.size(); ++i)
      product += static_cast<double>(a[i]) * static_cast<double>(b[i - lag]);
    return std::abs(product) / (law.stddev() * law.stddev()) / std::sqrt(static_cast<double>(a.size() - lag));
  };
  EXPECT_LT(correlation(base, other, 0), kZ7);
  EXPECT_LT(correlation(base, base, 1), kZ7);
  EXPECT_LT(correlation(base, base, 64), kZ7);
}

TEST(DiscreteGaussian, RefusesWhatItsTablesCannotGive) {
  for (const double stddev : {0.0, 0.99, -4.0, 0x1.1p40, std::nan("")})
    EXPECT_THROW(DiscreteGaussian law(stddev), InternalError) << stddev;
  const DiscreteGaussian law(4);
  std::vector<int64_t> one(1), two(2);
  const uint64_t last = UINT64_MAX / 176 * 64 - 1;  // groups of 176 words, 64 samples
  EXPECT_NO_THROW(law.fill(key_of(1), 0, last, one));
  EXPECT_THROW(law.fill(key_of(1), 0, last, two), InternalError);
}

}  // namespace
}  // namespace dpfa
