// The per-thread code of the device pass against the CPU's pass: its dither, noise, hash, layout and masks.
#include <gtest/gtest.h>

#include <bit>

#include "comm/secagg/lane_hash.h"
#include "comm/secagg/masks.h"
#include "src/base/random/rank_contribution.h"
#include "tests/comm/cuda/host_pass.h"

namespace dpfa::comm::cuda {
namespace {

using secagg::LaneHash;
using testing::Hashes;
using testing::some_sums;

constexpr uint64_t kNonce = 5 | uint64_t{2} << 32;

StreamKey key_of(uint64_t number, Purpose purpose = Purpose::kMask) {
  return RootKey::from_insecure_seed(number).stream(purpose);
}

Hashes points_of(int64_t slices) {
  Hashes points;
  for (int64_t slice = 0; slice < slices; ++slice)
    points.push_back(secagg::hash_points(key_of(99), kNonce, slice));
  return points;
}

std::vector<int32_t> some_lanes(int64_t count) {
  std::vector<int32_t> lanes(static_cast<size_t>(count));
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = i % 11 == 3 ? INT32_MIN : static_cast<int32_t>(static_cast<uint32_t>(i + 1) * 2654435761u);
  return lanes;
}

struct Keys {
  secagg::Masks masks;
  std::vector<MaskKey> plain;
  // Of both signs in turn.
  explicit Keys(int count) {
    for (int k = 0; k < count; ++k) {
      const StreamKey key = key_of(static_cast<uint64_t>(k));
      masks.add_key(key, k % 2 == 1);
      plain.push_back(testing::mask_key(key, k % 2 == 1));
    }
  }
};

// The words that a CPU makes of lanes [first, first + size).
template <int kBits>
std::vector<typename Group<kBits>::Word> words_of(const Keys& keys, int64_t first,
                                                  std::vector<int32_t> lanes) {
  std::vector<typename Group<kBits>::Word> words((lanes.size() + Group<kBits>::kPerWord - 1) /
                                                 Group<kBits>::kPerWord);
  if constexpr (kBits == 32) {
    words.assign(lanes.begin(), lanes.end());
  } else {
    secagg::pack(lanes, words);
  }
  keys.masks.apply(kNonce, static_cast<uint64_t>(first / Group<kBits>::kPerWord), std::span(words));
  return words;
}

std::array<uint64_t, 2> hash_of(int64_t slice, const std::vector<int32_t>& lanes) {
  return LaneHash(key_of(99), kNonce, slice).part(0, lanes);
}

// Lanes as they leave their range when they wrap on the way back.
template <int kBits>
std::vector<int32_t> wrapped(std::vector<int32_t> lanes) {
  for (int32_t& lane : lanes)
    lane = static_cast<int32_t>(static_cast<uint32_t>(lane) << (32 - kBits)) >> (32 - kBits);
  return lanes;
}

template <int kBits>
void expect_words_of_cpu(const RankShare& share, int64_t count, int key_count) {
  const StreamKey noise = key_of(7, Purpose::kNoise), dither = key_of(8, Purpose::kDither);
  const uint64_t draw = 0x300000001;
  const std::vector<int64_t> sums = some_sums(count);
  std::vector<int32_t> lanes(sums.size());
  RankContribution(share, noise, dither).make(draw, 0, sums, lanes);
  const Keys keys(key_count);

  const DiscreteGaussian law(share.share_sigma);
  RankSum source = {{{},
                     {},
                     draw,
                     share.clamp,
                     share.dither_shift,
                     static_cast<int32_t>(law.weights().size()),
                     std::countr_zero(law.rows()),
                     law.weights().data(),
                     law.table().data()},
                    sums.data(),
                    0};
  std::copy_n(noise.words().begin(), 8, source.share.noise_key);
  std::copy_n(dither.words().begin(), 8, source.share.dither_key);
  const auto powers = testing::powers_of(points_of(1), Group<kBits>::kLanes);
  const auto expected = words_of<kBits>(keys, 0, lanes);
  auto words = expected;
  std::fill(words.begin(), words.end(), 0xAB);
  const Hashes hashes =
      testing::make_words<kBits>(source, keys.plain, powers, kNonce, 0, count, words.data());
  ASSERT_EQ(words, expected) << kBits << " bits, " << count << " lanes, " << key_count << " keys";
  ASSERT_EQ(hashes.at(0), hash_of(0, lanes)) << kBits << " bits, " << count << " lanes";
}

TEST(LaneGroup, MakesTheWordsAndHashesOfTheCpuForEveryWidthSizeAndNumberOfKeys) {
  for (const int64_t count : {0, 1, 15, 16, 17, 31, 33, 47, 48, 49, 4095, 4097, 8193, 12290}) {
    const RankShare share = {5, 1000000, 300.25};
    for (const int keys : {0, 1, 2, 5}) {
      expect_words_of_cpu<16>(share, count, keys);
      expect_words_of_cpu<21>(share, count, keys);
      expect_words_of_cpu<32>(share, count, keys);
    }
  }
}

TEST(LaneGroup, MakesTheWordsOfTheCpuForEveryDitherClampAndDeviation) {
  for (const int shift : {0, 1, 20, 32})
    for (const int64_t clamp : {int64_t{1}, int64_t{40000}, int64_t{INT32_MAX}})
      for (const double sigma : {1.0, 24.4, 50.0, 1e3, 0x1p20, 0x1p31}) {
        expect_words_of_cpu<32>({shift, clamp, sigma}, 500, 1);
        expect_words_of_cpu<21>({shift, clamp, sigma}, 500, 1);
      }
}

// Lanes around the end of the first slice, as the range that starts at a block's first lane before it.
template <int kBits>
void expect_hashes_around_a_slices_end() {
  const int64_t first = kHashSlice - kAlignment, count = kAlignment + 5001;
  const std::vector<int32_t> lanes = some_lanes(count);
  const Keys keys(2);
  const auto powers = testing::powers_of(points_of(2), Group<kBits>::kLanes);
  const auto expected = words_of<kBits>(keys, first, lanes);
  auto words = expected;
  const Hashes made = testing::make_words<kBits>(PlainLanes{lanes.data(), first}, keys.plain, powers, kNonce,
                                                 first, first + count, words.data());
  ASSERT_EQ(words, expected) << kBits;

  const std::span<const int32_t> all(lanes);
  EXPECT_EQ(made.at(0), LaneHash(key_of(99), kNonce, 0).part(first, all.first(kAlignment))) << kBits;
  EXPECT_EQ(made.at(1), hash_of(1, {lanes.begin() + kAlignment, lanes.end()})) << kBits;
}

TEST(LaneGroup, HashesOnBothSidesOfASlicesEndAreThoseOfTheCpu) {
  expect_hashes_around_a_slices_end<16>();
  expect_hashes_around_a_slices_end<21>();
  expect_hashes_around_a_slices_end<32>();
}

template <int kBits>
void expect_way_back(int64_t count) {
  const std::vector<int32_t> lanes = wrapped<kBits>(some_lanes(count));
  const auto words = words_of<kBits>(Keys(0), 0, lanes);
  std::vector<int32_t> out(lanes.size(), 7);
  const auto powers = testing::powers_of(points_of(1), Group<kBits>::kLanes);
  const Hashes hashes = testing::read_words<kBits>(powers, 0, count, words.data(), out.data());
  ASSERT_EQ(out, lanes) << kBits << " bits, " << count << " lanes";
  ASSERT_EQ(hashes.at(0), hash_of(0, lanes)) << kBits << " bits, " << count << " lanes";
}

TEST(LaneGroup, ReadsTheLanesOfASumAndTheirHashAsTheCpuDoes) {
  for (const int64_t count : {0, 1, 2, 15, 16, 17, 47, 49, 4097, 8193, 12290}) {
    expect_way_back<16>(count);
    expect_way_back<21>(count);
    expect_way_back<32>(count);
  }
}

}  // namespace
}  // namespace dpfa::comm::cuda
