#include <gtest/gtest.h>
#include <sodium.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/cpu_dispatch.h"
#include "src/base/random/philox.h"

namespace dpfa {
namespace {

// Restores the path that the processor chose.
class CpuPathTest : public testing::Test {
 protected:
  void TearDown() override { set_cpu_path(available_cpu_paths().back()); }
};
using Words = CpuPathTest;

StreamKey counting_key() {
  std::array<uint32_t, 8> words;
  for (uint32_t i = 0; i < 8; ++i)
    words[i] = 4 * i | (4 * i + 1) << 8 | (4 * i + 2) << 16 | (4 * i + 3) << 24;
  return StreamKey(words);
}

TEST(ChaCha20, BlockEqualsTheVectorOfRfc8439Section232) {
  const std::array<uint32_t, 16> expected = {
      0xe4e7f110, 0x15593bd1, 0x1fdd0f50, 0xc47120a3, 0xc7f4d1c7, 0x0368c033, 0x9aaa2204, 0x4e6cd4c3,
      0x466482d2, 0x09aa9f07, 0x05d7c214, 0xa2028bd9, 0xd19c12b5, 0xb94e16de, 0xe883d0cb, 0x4e3c50a2};
  EXPECT_EQ(chacha20_block(counting_key().words(), 1, {0x09000000, 0x4a000000, 0}), expected);
}

TEST(ChaCha20, BlockEqualsTheFirstVectorOfRfc8439AppendixA1) {
  const std::array<uint32_t, 16> expected = {
      0xade0b876, 0x903df1a0, 0xe56a5d40, 0x28bd8653, 0xb819d2bd, 0x1aed8da0, 0xccef36a8, 0xc70d778b,
      0x7c5941da, 0x8d485751, 0x3fe02477, 0x374ad8b8, 0xf4b8436a, 0x1ca11815, 0x69b687c3, 0x8665eeb2};
  EXPECT_EQ(chacha20_block({}, 0, {0, 0, 0}), expected);
}

TEST(ChaCha20, BlockEqualsLibsodiumForRandomKeys) {
  ASSERT_GE(sodium_init(), 0);
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 100; ++repeat) {
    std::array<uint32_t, 8> key;
    std::array<uint32_t, 3> nonce;
    for (uint32_t& word : key) word = random();
    for (uint32_t& word : nonce) word = random();
    const uint32_t counter = random();
    unsigned char zeros[64] = {}, expected[64], key_bytes[32], nonce_bytes[12];
    std::memcpy(key_bytes, key.data(), 32);
    std::memcpy(nonce_bytes, nonce.data(), 12);
    crypto_stream_chacha20_ietf_xor_ic(expected, zeros, 64, nonce_bytes, counter, key_bytes);
    EXPECT_EQ(std::memcmp(chacha20_block(key, counter, nonce).data(), expected, 64), 0);
  }
}

TEST(Philox, EqualsTheKnownAnswersOfItsAuthors) {
  using Counter = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST_F(Words, OfEveryInstructionSetAreTheBlocksOfTheScalarFunction) {
  const StreamKey key = counting_key();
  const uint64_t step = 0x0123456789abcdef;
  // The second start makes the block number cross 2^32 inside the range.
  for (const uint64_t first_block : {uint64_t{0}, (uint64_t{1} << 32) - 20, uint64_t{7} << 40}) {
    std::vector<uint32_t> expected;
    for (uint64_t block = first_block; block < first_block + 64; ++block) {
      const auto words = chacha20_block(key.words(), static_cast<uint32_t>(block),
                                        {static_cast<uint32_t>(block >> 32), 0x89abcdef, 0x01234567});
      expected.insert(expected.end(), words.begin(), words.end());
    }
    for (const CpuPath path : available_cpu_paths()) {
      set_cpu_path(path);
      std::vector<uint32_t> words(expected.size());
      fill_words(key, step, 16 * first_block, words);
      EXPECT_EQ(words, expected) << to_string(path) << " from block " << first_block;
    }
  }
}

TEST_F(Words, DependOnTheirIndexAndNotOnTheRangeAskedFor) {
  const StreamKey key = counting_key();
  std::vector<uint32_t> all(2000);
  fill_words(key, 3, 0, all);
  for (const size_t begin : {0, 1, 15, 16, 255, 256, 257, 1000})
    for (const size_t count : {0, 1, 17, 255, 256, 513, 900}) {
      std::vector<uint32_t> part(count);
      fill_words(key, 3, begin, part);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + begin)) << begin << " + " << count;
    }
}

TEST_F(Words, ChangeByHalfOfTheirBitsWithAnyBitOfTheKey) {
  constexpr size_t kCount = 2048;
  const std::array<uint32_t, 8> key = counting_key().words();
  std::vector<uint32_t> words(kCount), others(kCount);
  fill_words(StreamKey(key), 3, 0, words);
  for (int bit = 0; bit < 256; ++bit) {
    std::array<uint32_t, 8> other = key;
    other[bit / 32] ^= uint32_t{1} << bit % 32;
    fill_words(StreamKey(other), 3, 0, others);
    int changed = 0;
    for (size_t i = 0; i < kCount; ++i) changed += __builtin_popcount(words[i] ^ others[i]);
    // 65536 bits, standard deviation 128: seven of them are crossed by fewer than 1e-9 of all keys.
    EXPECT_NEAR(changed, 32768, 7 * 128) << "bit " << bit;
  }
}

TEST_F(Words, EndAtTwoToThe64) {
  std::vector<uint32_t> last(2);
  EXPECT_NO_THROW(fill_words(counting_key(), 0, std::numeric_limits<uint64_t>::max() - 1, last));
  EXPECT_THROW(fill_words(counting_key(), 0, std::numeric_limits<uint64_t>::max(), last), InternalError);
}

TEST_F(CpuPathTest, ThePortablePathIsAlwaysThereAndTheWidestIsChosen) {
  const std::vector<CpuPath> paths = available_cpu_paths();
  EXPECT_EQ(paths.front(), CpuPath::kPortable);
  EXPECT_EQ(active_cpu_path(), paths.back());
  if (paths.size() < 3)
    std::printf("not compared here: the vector paths that this processor does not have\n");
}

}  // namespace
}  // namespace dpfa
