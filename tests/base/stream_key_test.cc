#include "src/base/stream_key.h"

#include <gtest/gtest.h>

#include <cstring>
#include <new>
#include <set>

#include "src/base/random/chacha20.h"

namespace dpfa {
namespace {

TEST(RootKey, AllBytesOfASystemRootVary) {
  // False-alarm rate: some byte equal in 16 independent roots, 32 * 2^-120.
  std::array<std::set<uint8_t>, 32> values;
  for (int draw = 0; draw < 16; ++draw) {
    const std::array<uint8_t, 32> bytes = RootKey::from_system().bytes();
    for (size_t i = 0; i < bytes.size(); ++i) values[i].insert(bytes[i]);
  }
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_GT(values[i].size(), 1u) << "byte " << i << " is constant";
}

TEST(RootKey, NoTwoSystemRootsAreEqualHoweverQuicklyTheyAreDrawn) {
  // A root that is a function of a clock repeats while the clock stands still.
  std::set<std::array<uint8_t, 32>> roots;
  for (int draw = 0; draw < 20000; ++draw) roots.insert(RootKey::from_system().bytes());
  EXPECT_EQ(roots.size(), 20000u);
}

TEST(RootKey, StreamsAreSeparatedByPurposeIndexAndRoot) {
  std::set<std::array<uint32_t, 8>> keys;
  int streams = 0;
  for (uint64_t seed : {1, 2})
    for (Purpose purpose : {Purpose::kNoise, Purpose::kSampling, Purpose::kDropout, Purpose::kInit,
                            Purpose::kSynthesis, Purpose::kDither, Purpose::kMask})
      for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
        keys.insert(RootKey::from_insecure_seed(seed).stream(purpose, index).words());
        ++streams;
      }
  EXPECT_EQ(keys.size(), static_cast<size_t>(streams));
}

TEST(RootKey, AStreamIsTheChaCha20BlockOfPurposeAndIndexUnderTheRoot) {
  std::array<uint8_t, 32> bytes;
  for (uint8_t i = 0; i < 32; ++i) bytes[i] = i;
  std::array<uint32_t, 8> root;
  for (uint32_t i = 0; i < 8; ++i) root[i] = 4 * i | (4 * i + 1) << 8 | (4 * i + 2) << 16 | (4 * i + 3) << 24;
  const auto block = chacha20_block(root, 0, {2, 0x89abcdef, 0x01234567});
  const StreamKey key = RootKey::from_bytes(bytes).stream(Purpose::kSampling, 0x0123456789abcdef);
  EXPECT_TRUE(std::equal(key.words().begin(), key.words().end(), block.begin()));
}

TEST(RootKey, TheSameInsecureSeedGivesTheSameStreams) {
  EXPECT_EQ(RootKey::from_insecure_seed(5).stream(Purpose::kNoise).words(),
            RootKey::from_insecure_seed(5).stream(Purpose::kNoise).words());
}

TEST(RootKey, BytesRebuildTheRootOnAnotherRank) {
  const RootKey root = RootKey::from_system();
  EXPECT_EQ(RootKey::from_bytes(root.bytes()).stream(Purpose::kNoise, 3).words(),
            root.stream(Purpose::kNoise, 3).words());
}

TEST(RootKey, AMovedFromRootHoldsNoSecret) {
  RootKey root = RootKey::from_system();
  const std::array<uint8_t, 32> bytes = root.bytes();
  RootKey other = std::move(root);
  EXPECT_EQ(other.bytes(), bytes);
  EXPECT_EQ(root.bytes(), (std::array<uint8_t, 32>{}));
}

TEST(RootKey, KeysAreWipedWhenDestroyed) {
  alignas(RootKey) unsigned char root_memory[sizeof(RootKey)];
  alignas(StreamKey) unsigned char stream_memory[sizeof(StreamKey)];
  auto* root = new (root_memory) RootKey(RootKey::from_system());
  auto* stream = new (stream_memory) StreamKey(root->stream(Purpose::kNoise));
  root->~RootKey();
  stream->~StreamKey();
  // Read through volatile: the compiler may not assume what the dead objects held.
  const auto all_zero = [](const volatile unsigned char* memory, size_t size) {
    for (size_t i = 0; i < size; ++i)
      if (memory[i] != 0) return false;
    return true;
  };
  EXPECT_TRUE(all_zero(root_memory, sizeof(RootKey)));
  EXPECT_TRUE(all_zero(stream_memory, sizeof(StreamKey)));
}

}  // namespace
}  // namespace dpfa
