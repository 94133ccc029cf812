// Key derivation, mask graph, lanes and hash: each against an oracle or by exhaustion.
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "comm/secagg/hkdf.h"
#include "comm/secagg/lane_hash.h"
#include "comm/secagg/lane_layout.h"
#include "comm/secagg/mask_graph.h"
#include "src/base/error.h"
#include "src/base/random/chacha20.h"

namespace dpfa::comm::secagg {
namespace {

Bytes32 from_hex(const std::string& text) {
  Bytes32 bytes;
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<uint8_t>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return bytes;
}

std::vector<uint8_t> counting(uint8_t first, size_t count) {
  std::vector<uint8_t> bytes(count);
  std::iota(bytes.begin(), bytes.end(), first);
  return bytes;
}

TEST(Hkdf, EqualsTheVectorsOfRfc5869) {
  const std::vector<uint8_t> material(22, 0x0b);
  const Secret first = hkdf_extract(counting(0, 13), material);
  EXPECT_EQ(first.bytes(), from_hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
  EXPECT_EQ(hkdf_expand(first, counting(0xf0, 10)).bytes(),
            from_hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
  const Secret third = hkdf_extract({}, material);
  EXPECT_EQ(third.bytes(), from_hex("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"));
  EXPECT_EQ(hkdf_expand(third, {}).bytes(),
            from_hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"));
}

TEST(Hkdf, ASecretIsWipedWhenDestroyed) {
  alignas(Secret) unsigned char memory[sizeof(Secret)];
  auto* secret = new (memory) Secret(from_hex(std::string(64, '5')));
  secret->~Secret();
  const volatile unsigned char* seen = memory;
  for (size_t i = 0; i < sizeof(Secret); ++i) EXPECT_EQ(seen[i], 0);
}

TEST(Context, OfAnotherLabelOrNumberHasOtherBytes) {
  std::set<std::vector<uint8_t>> all;
  for (const char* label : {"a", "ab", ""})
    for (const uint64_t number : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 40}) {
      const Context context = Context(label).add(number);
      all.emplace(context.bytes().begin(), context.bytes().end());
    }
  EXPECT_EQ(all.size(), 9u);
}

// Whether the ranks outside `removed` (a bit mask) are connected.
bool connected_without(const std::vector<std::vector<int>>& graph, uint64_t removed) {
  const int ranks = static_cast<int>(graph.size());
  uint64_t reached = 0;
  std::vector<int> open;
  for (int rank = 0; rank < ranks && open.empty(); ++rank)
    if (!(removed >> rank & 1)) open.push_back(rank);
  reached |= uint64_t{1} << open[0];
  while (!open.empty()) {
    const int rank = open.back();
    open.pop_back();
    for (const int other : graph[static_cast<size_t>(rank)])
      if (!((removed | reached) >> other & 1)) {
        reached |= uint64_t{1} << other;
        open.push_back(other);
      }
  }
  return (reached | removed) == (ranks == 64 ? ~uint64_t{0} : (uint64_t{1} << ranks) - 1);
}

std::vector<std::vector<int>> graph_of(int ranks, int colluders) {
  std::vector<std::vector<int>> graph;
  for (int rank = 0; rank < ranks; ++rank) graph.push_back(mask_neighbours(rank, ranks, colluders));
  return graph;
}

TEST(MaskGraph, StaysConnectedWithoutAnyColludingRanks) {
  for (int ranks = 1; ranks <= 12; ++ranks)
    for (int colluders = 0; colluders < ranks; ++colluders) {
      const auto graph = graph_of(ranks, colluders);
      for (uint64_t removed = 0; removed < uint64_t{1} << ranks; ++removed)
        if (__builtin_popcountll(removed) <= colluders) {
          ASSERT_TRUE(connected_without(graph, removed)) << ranks << " ranks without " << removed;
        }
    }
}

TEST(MaskGraph, OfManyRanksStaysConnectedWithoutAnyThree) {
  for (const int ranks : {63, 64}) {
    const auto graph = graph_of(ranks, 3);
    for (int a = 0; a < ranks; ++a)
      for (int b = a; b < ranks; ++b)
        for (int c = b; c < ranks; ++c)
          ASSERT_TRUE(connected_without(graph, uint64_t{1} << a | uint64_t{1} << b | uint64_t{1} << c));
  }
}

TEST(MaskGraph, IsSymmetricAndHasTheFewestEdges) {
  for (int ranks = 1; ranks <= 20; ++ranks)
    for (int colluders = 0; colluders < ranks; ++colluders) {
      const auto graph = graph_of(ranks, colluders);
      const int degree = std::min(std::max(2, colluders + 1), ranks - 1);
      int ends = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        std::set<int> distinct;
        for (const int other : graph[static_cast<size_t>(rank)]) {
          EXPECT_NE(other, rank);
          EXPECT_TRUE(distinct.insert(other).second);
          const auto& back = graph[static_cast<size_t>(other)];
          EXPECT_NE(std::find(back.begin(), back.end(), rank), back.end());
        }
        ends += static_cast<int>(distinct.size());
      }
      EXPECT_EQ(ends, 2 * ((ranks * degree + 1) / 2)) << ranks << " ranks, " << colluders << " colluders";
    }
}

TEST(MaskGraph, OfOneColludingRankIsARing) {
  EXPECT_EQ(mask_neighbours(0, 5, 1), (std::vector<int>{1, 4}));
  EXPECT_EQ(mask_neighbours(3, 5, 1), (std::vector<int>{2, 4}));
  EXPECT_EQ(mask_neighbours(1, 2, 1), (std::vector<int>{0}));
}

TEST(MaskGraph, AsManyColludersAsRanksAreRefused) {
  EXPECT_THROW(mask_neighbours(0, 4, 4), ConfigError);
  EXPECT_THROW(mask_neighbours(0, 4, -1), ConfigError);
  EXPECT_NO_THROW(mask_neighbours(0, 4, 3));
}

// Sums of packed words are the packed sums of lanes, for extreme lanes beside each other.
template <typename Word>
void sums_of_words_are_sums_of_lanes(int bits) {
  const int64_t top = (int64_t{1} << (bits - 1)) - 1, bottom = -top - 1;
  uint64_t state = 1;
  const auto random = [&] {
    return state = state * 6364136223846793005u + 1442695040888963407u, state >> 33;
  };
  for (int repeat = 0; repeat < 2000; ++repeat) {
    const size_t ranks = 2 + random() % 8;
    const LaneLayout layout{.bits = bits, .lanes = static_cast<int64_t>(1 + random() % 20)};
    const auto lanes = static_cast<size_t>(layout.lanes);
    // Targets within the range, some extreme; the contributions split them at random and wrap as they like.
    std::vector<int32_t> target(lanes), rest(lanes);
    for (int32_t& lane : target) {
      const uint64_t kind = random() % 5;
      lane =
          static_cast<int32_t>(kind == 0   ? top
                               : kind == 1 ? bottom
                               : kind == 2 ? -1
                                           : bottom + static_cast<int64_t>(random() % (uint64_t{1} << bits)));
    }
    rest = target;
    std::vector<Word> sum(static_cast<size_t>(layout.words())), words(sum.size());
    for (size_t rank = 0; rank < ranks; ++rank) {
      std::vector<int32_t> mine(lanes);
      for (size_t i = 0; i < lanes; ++i) {
        mine[i] = rank + 1 == ranks ? rest[i] : static_cast<int32_t>(random() % 4096) - 2048;
        rest[i] -= mine[i];
      }
      pack(mine, words);
      for (size_t w = 0; w < words.size(); ++w) sum[w] += words[w];
    }
    std::vector<int32_t> decoded(lanes);
    unpack(sum, decoded);
    ASSERT_EQ(decoded, target) << bits << " bits, " << lanes << " lanes";
  }
}

TEST(LaneLayout, SumsOfWordsAreSumsOfLanesWithin16Bits) { sums_of_words_are_sums_of_lanes<uint32_t>(16); }
TEST(LaneLayout, SumsOfWordsAreSumsOfLanesWithin21Bits) { sums_of_words_are_sums_of_lanes<uint64_t>(21); }

TEST(LaneLayout, LanesOfOneValueAllAtTheBordersKeepIt) {
  for (const int32_t value : {-(1 << 15), -1, 0, (1 << 15) - 1}) {
    const std::vector<int32_t> lanes(7, value);
    std::vector<uint32_t> words(4);
    std::vector<int32_t> back(7);
    pack(lanes, words);
    unpack(words, back);
    EXPECT_EQ(back, lanes);
  }
  for (const int32_t value : {-(1 << 20), -1, 0, (1 << 20) - 1}) {
    const std::vector<int32_t> lanes(7, value);
    std::vector<uint64_t> words(3);
    std::vector<int32_t> back(7);
    pack(lanes, words);
    unpack(words, back);
    EXPECT_EQ(back, lanes);
  }
}

TEST(LaneLayout, BytesOnTheWireAreFourTwoAndTwoThirdsOrTwoForEachLane) {
  EXPECT_EQ((LaneLayout{32, 6000}.bytes()), 24000);
  EXPECT_EQ((LaneLayout{21, 6000}.bytes()), 16000);
  EXPECT_EQ((LaneLayout{16, 6000}.bytes()), 12000);
}

TEST(LaneLayout, OtherWidthsAreRefused) {
  for (const int bits : {0, 8, 17, 33, 64}) EXPECT_THROW((LaneLayout{bits, 1}.check()), ConfigError);
}

// The definition, one lane after the other.
std::array<uint64_t, 2> hash_by_definition(const StreamKey& key, uint64_t nonce, int64_t slice,
                                           const std::vector<int32_t>& lanes) {
  std::array<uint32_t, 4> words;
  fill_words(key, nonce, 4 * static_cast<uint64_t>(slice), words);
  std::array<uint64_t, 2> hash = {};
  for (size_t k = 0; k < 2; ++k) {
    const uint64_t z =
        ((uint64_t{words[2 * k + 1]} << 32 | words[2 * k]) & LaneHash::kPrime) % LaneHash::kPrime;
    uint64_t power = z;
    for (const int32_t lane : lanes) {
      const uint64_t residue =
          lane < 0 ? LaneHash::kPrime - static_cast<uint64_t>(-int64_t{lane}) : static_cast<uint64_t>(lane);
      hash[k] = add_mod(hash[k], multiply_mod(residue, power));
      power = multiply_mod(power, z);
    }
  }
  return hash;
}

StreamKey hash_key() { return StreamKey({8, 7, 6, 5, 4, 3, 2, 1}); }

std::vector<int32_t> made_lanes(size_t count, uint32_t salt) {
  std::vector<uint32_t> words(count);
  fill_words(StreamKey({salt}), 0, 0, words);
  std::vector<int32_t> lanes(words.begin(), words.end());
  for (size_t i = 0; i < count; i += 37) lanes[i] = i % 2 == 0 ? INT32_MIN : INT32_MAX;
  return lanes;
}

std::array<uint64_t, 2> hash_of(const std::vector<int32_t>& lanes, uint64_t nonce = 3, int64_t slice = 0) {
  return LaneHash(hash_key(), nonce, slice).part(0, lanes);
}

TEST(LaneHash, IsThePolynomialOfItsDefinition) {
  for (const size_t count : {0, 1, 2, 511, 512, 513, 5000})
    EXPECT_EQ(hash_of(made_lanes(count, 1), 3, 2),
              hash_by_definition(hash_key(), 3, 2, made_lanes(count, 1)));
  const std::vector<int32_t> lowest(3000, INT32_MIN);
  EXPECT_EQ(hash_of(lowest), hash_by_definition(hash_key(), 3, 0, lowest));
}

TEST(LaneHash, IsTheSumOfItsPartsInAnyOrder) {
  const std::vector<int32_t> lanes = made_lanes(5000, 1);
  const LaneHash hash(hash_key(), 3, 0);
  std::array<uint64_t, 2> sum = {};
  for (const int64_t block : {7, 0, 4, 2}) {  // parts of 2 and 3 blocks, the last with what is left
    const int64_t first = block * LaneHash::kBlock,
                  next = block == 7 ? 5000 : first + (block == 4 ? 3 : 2) * 512;
    const auto part = hash.part(first, std::span(lanes).subspan(first, next - first));
    for (size_t k = 0; k < 2; ++k) sum[k] = add_mod(sum[k], part[k]);
  }
  EXPECT_EQ(sum, hash_of(lanes));
  EXPECT_THROW(hash.part(100, lanes), InternalError);
}

TEST(LaneHash, MultiplicationIsThatOfIntegersModuloThePrime) {
  constexpr uint64_t p = LaneHash::kPrime;
  EXPECT_EQ(multiply_mod(p - 1, p - 1), 1u);
  EXPECT_EQ(multiply_mod(uint64_t{1} << 60, 2), 1u);
  EXPECT_EQ(multiply_mod(p - 1, 2), p - 2);
  EXPECT_EQ(add_mod(p - 1, 1), 0u);
}

TEST(LaneHash, OfASumIsTheSumOfTheHashes) {
  const std::vector<int32_t> a = made_lanes(4000, 1), b = made_lanes(4000, 2);
  std::vector<int32_t> half_a(a), half_b(b), sum(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    half_a[i] /= 2;
    half_b[i] /= 2;
    sum[i] = half_a[i] + half_b[i];
  }
  for (size_t k = 0; k < 2; ++k) EXPECT_EQ(hash_of(sum)[k], add_mod(hash_of(half_a)[k], hash_of(half_b)[k]));
}

TEST(LaneHash, ChangesWithEveryLaneItsPlaceTheStepAndTheSlice) {
  const std::vector<int32_t> lanes = made_lanes(1500, 1);
  const auto hash = hash_of(lanes);
  for (const size_t i : {0, 1, 511, 512, 1499}) {
    std::vector<int32_t> altered = lanes;
    altered[i] ^= 1;
    EXPECT_NE(hash_of(altered), hash) << i;
  }
  std::vector<int32_t> swapped = lanes;
  std::swap(swapped[3], swapped[1000]);
  EXPECT_NE(hash_of(swapped), hash);
  EXPECT_NE(hash_of(lanes, 4), hash);
  EXPECT_NE(hash_of(lanes, 3, 1), hash);
}

TEST(LaneHash, FindsALaneThatWrapped) {
  std::vector<int32_t> lanes(100, 5);
  lanes[50] = INT32_MAX;
  std::vector<int32_t> wrapped = lanes;
  wrapped[50] = INT32_MIN;  // INT32_MAX + 1 in 32 bits
  const std::vector<int32_t> one = [] {
    std::vector<int32_t> v(100, 0);
    v[50] = 1;
    return v;
  }();
  for (size_t k = 0; k < 2; ++k) EXPECT_NE(hash_of(wrapped)[k], add_mod(hash_of(lanes)[k], hash_of(one)[k]));
}

}  // namespace
}  // namespace dpfa::comm::secagg
