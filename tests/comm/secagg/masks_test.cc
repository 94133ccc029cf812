// What the words of a rank look like to those who lack a key. Keys are fixed; a bound of 7 on byte_excess()
// is crossed by fewer than 1e-8 of all keys.
#include "comm/secagg/masks.h"

#include <gtest/gtest.h>

#include <set>
#include <type_traits>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "tests/support/secagg_keys.h"

namespace dpfa::comm::secagg {
namespace {

using testing::byte_excess;
using testing::fixed_masks;
using testing::fixed_pair_key;

constexpr size_t kWords = 5000;
constexpr double kUniform = 7;

std::vector<uint32_t> masked(int rank, int ranks, int colluders, std::vector<uint32_t> words,
                             uint64_t nonce = 1, uint64_t first = 0) {
  fixed_masks(rank, ranks, colluders, 1).apply(nonce, first, std::span(words));
  return words;
}

std::vector<uint32_t> difference(std::vector<uint32_t> a, const std::vector<uint32_t>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

TEST(Masks, CancelInTheSumOfAllRanks) {
  for (const int ranks : {2, 3, 5, 8, 16, 64})
    for (const int colluders : {0, 1, 2, 5}) {
      if (colluders >= ranks) continue;
      std::vector<uint32_t> sum(1000);
      std::vector<uint64_t> wide(1000);
      for (int rank = 0; rank < ranks; ++rank) {
        const Masks masks = fixed_masks(rank, ranks, colluders, 1);
        masks.apply(7, 3, std::span(sum));
        masks.apply(7, 3, std::span(wide));
      }
      EXPECT_EQ(sum, std::vector<uint32_t>(1000)) << ranks << " ranks, " << colluders << " colluders";
      EXPECT_EQ(wide, std::vector<uint64_t>(1000)) << ranks << " ranks, " << colluders << " colluders";
    }
}

TEST(Masks, AreTheSumOfTheStreamsOfTheirKeys) {
  const Masks masks = fixed_masks(1, 3, 1, 1);
  const uint64_t nonce = nonce_of(0x01234567, 0x76543210);
  // Bucket, block counter and place in the block tell any two words of 2^64 apart.
  for (const uint64_t first : {uint64_t{0}, uint64_t{5}, (uint64_t{1} << 36) - 100, uint64_t{1} << 36,
                               (uint64_t{1} << 40) + 7, (uint64_t{1} << 63) - 150}) {
    std::vector<uint32_t> words(300);
    masks.apply(nonce, first, std::span(words));
    for (size_t i = 0; i < words.size(); ++i) {
      const uint64_t word = first + i, block = word / 16;
      const auto stream = [&](int other) {
        return chacha20_block(fixed_pair_key(1, other, 1).words(), static_cast<uint32_t>(block),
                              {static_cast<uint32_t>(block >> 32), 0x01234567, 0x76543210})[word % 16];
      };
      ASSERT_EQ(words[i], stream(2) - stream(0)) << "word " << word;
    }
  }
}

TEST(Masks, DoNotDependOnHowAVectorIsCutIntoParts) {
  const std::vector<uint32_t> whole = masked(1, 3, 1, std::vector<uint32_t>(kWords));
  std::vector<uint32_t> parts;
  for (size_t first = 0; first < kWords; first += 700) {
    const auto part = masked(1, 3, 1, std::vector<uint32_t>(std::min<size_t>(700, kWords - first)), 1, first);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  EXPECT_EQ(parts, whole);
}

TEST(Masks, OfWideWordsAreTwoWordsOfTheStream) {
  const auto narrow = masked(0, 2, 1, std::vector<uint32_t>(200));
  std::vector<uint64_t> wide(100);
  fixed_masks(0, 2, 1, 1).apply(1, 0, std::span(wide));
  for (size_t i = 0; i < wide.size(); ++i)
    EXPECT_EQ(wide[i], narrow[2 * i] | uint64_t{narrow[2 * i + 1]} << 32);
}

TEST(Masks, MakeAnyContributionLookUniform) {
  for (const uint32_t value : {0u, 1u, 0xffffffffu, 0x12345678u}) {
    const std::vector<uint32_t> plain(kWords, value);
    for (int rank = 0; rank < 4; ++rank) {
      const auto sent = masked(rank, 4, 1, plain);
      EXPECT_LT(byte_excess(sent), kUniform);
      // 5000 words agree with the plain ones by chance with probability 1.2e-6.
      for (size_t i = 0; i < kWords; ++i) ASSERT_NE(sent[i], plain[i]);
    }
  }
}

TEST(Masks, OfTwoRanksWithEqualContributionsAreUnrelated) {
  const std::vector<uint32_t> plain(kWords, 5);
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < a; ++b) {
      const auto first = masked(a, 4, 2, plain), second = masked(b, 4, 2, plain);
      EXPECT_LT(byte_excess(difference(first, second)), kUniform) << a << " and " << b;
      // In a complete graph of four ranks two ranks share one of three masks with opposite signs: -1/3.
      EXPECT_LT(std::abs(testing::correlation(first, second)), 0.4);
    }
}

TEST(Masks, HideEverySumOfContributionsShortOfAll) {
  for (int ranks = 2; ranks <= 6; ++ranks)
    for (int colluders = 0; colluders < ranks; ++colluders)
      for (uint32_t subset = 1; subset + 1 < uint32_t{1} << ranks; ++subset) {
        std::vector<uint32_t> sum(kWords);
        for (int rank = 0; rank < ranks; ++rank)
          if (subset >> rank & 1) sum = masked(rank, ranks, colluders, sum);
        ASSERT_LT(byte_excess(sum), kUniform) << ranks << " ranks, subset " << subset;
      }
}

TEST(Masks, HoldAgainstAsManyColludersAsToleratedAndNotOneMore) {
  // The colluders know the streams that they share with rank 0 and take them off.
  constexpr int kRanks = 6;
  for (int colluders = 1; colluders <= 3; ++colluders) {
    const std::vector<int> neighbours = mask_neighbours(0, kRanks, colluders);
    ASSERT_EQ(static_cast<int>(neighbours.size()), colluders + 1);
    std::vector<uint32_t> seen = masked(0, kRanks, colluders, std::vector<uint32_t>(kWords, 17));
    for (size_t known = 0; known < neighbours.size(); ++known) {
      EXPECT_LT(byte_excess(seen), kUniform) << known << " of " << neighbours.size() << " keys are known";
      Masks one;
      one.add_key(fixed_pair_key(0, neighbours[known], 1), /*subtract=*/true);
      one.apply(1, 0, std::span(seen));
    }
    EXPECT_EQ(seen, std::vector<uint32_t>(kWords, 17)) << "with all keys of a rank its contribution opens";
  }
}

TEST(Masks, OfTwoStepsAttemptsAndPlacesAreUnrelated) {
  const std::vector<uint32_t> plain(kWords, 5);
  const auto one = masked(0, 2, 1, plain, nonce_of(1, 0));
  for (const auto& other :
       {masked(0, 2, 1, plain, nonce_of(2, 0)), masked(0, 2, 1, plain, nonce_of(1, 1)),
        masked(0, 2, 1, plain, nonce_of(1, 0), kWords), masked(0, 2, 1, plain, nonce_of(1, 0), 1),
        masked(0, 2, 1, plain, nonce_of(1, 0), uint64_t{1} << 36)}) {
    EXPECT_LT(byte_excess(difference(one, other)), kUniform);
    EXPECT_LT(std::abs(testing::correlation(one, other)), 0.08);  // 5.6 standard deviations
  }
}

// Two objects with the same keys could use one pad twice.
static_assert(!std::is_copy_constructible_v<Masks> && !std::is_copy_assignable_v<Masks>);

TEST(Nonce, OfNoTwoStepsAndAttemptsIsEqual) {
  // As a million steps of a run with retries would number them.
  std::set<uint64_t> nonces;
  for (int64_t step = 0; step < 1000000; ++step)
    nonces.insert(nonce_of(step * 4099 % (int64_t{1} << 32), step % 7));
  EXPECT_EQ(nonces.size(), 1000000u);
  EXPECT_NE(nonce_of(1, 0), nonce_of(0, 1));
}

TEST(Nonce, BeyondItsBitsIsRefused) {
  EXPECT_NO_THROW(nonce_of((int64_t{1} << 32) - 1, (int64_t{1} << 32) - 1));
  EXPECT_THROW(nonce_of(int64_t{1} << 32, 0), InternalError);
  EXPECT_THROW(nonce_of(0, int64_t{1} << 32), InternalError);
  EXPECT_THROW(nonce_of(-1, 0), InternalError);
}

}  // namespace
}  // namespace dpfa::comm::secagg
