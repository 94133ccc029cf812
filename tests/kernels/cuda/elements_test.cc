// The per-thread code of the fused release and update, run on the host thread by thread.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/cuda/noisy_block.h"
#include "kernels/cuda/scaled_sum.h"
#include "kernels/noise.h"
#include "kernels/optimizer_step.h"
#include "src/base/random/normal.h"

namespace dpfa::kernels::cuda {
namespace {

StreamKey key_of(uint64_t seed) { return RootKey::from_insecure_seed(seed).stream(Purpose::kNoise); }

// Shards whose ends lie on and beside the edges of a group of 128 elements.
struct Shard {
  uint64_t first;
  int64_t count;
};
const std::vector<Shard> kShards = {{0, 0},      {0, 1},        {0, 128},
                                    {1, 127},    {5, 500},      {127, 2},
                                    {128, 4096}, {1000, 1001},  {(1ull << 35) - 9, 300},
                                    {16, 16},    {12345, 20011}};

NoiseRange range_of(const StreamKey& key, uint64_t step, double stddev, double scale, const Shard& shard) {
  NoiseRange range = {{}, step, stddev, scale, shard.first, shard.count};
  std::copy_n(key.words().begin(), 8, range.key);
  return range;
}

template <typename Int, typename Update>
void run(Generator generator, const NoiseRange& range, Int* sum, const Update& update) {
  for (uint64_t block = first_block(range); block < first_block(range) + block_count(range); ++block)
    generator == Generator::kChaCha20 ? noisy_block<true>(range, block, sum, update)
                                      : noisy_block<false>(range, block, sum, update);
}

template <typename Int>
std::vector<Int> some_sums(int64_t count) {
  std::vector<Int> sum(count);
  for (int64_t i = 0; i < count; ++i)
    sum[i] = static_cast<int32_t>(static_cast<uint32_t>(i) * 2654435761u) >> 8;
  return sum;
}

// Equal entries, so that a rounding of all of them in one direction shows in the norm.
TEST(ScaledSum, OfAnExampleStaysWithinTheClippingNorm) {
  for (int entries = 1; entries < 60; ++entries)
    for (const float entry : {0.03f, 1.7f, 400.0f}) {
      const double norm = std::sqrt(entries) * entry;
      const double factor = norm <= 1 ? 1 : 1 / norm;
      const auto scale = static_cast<float>(factor * 0x1p20 * (1 - 0x1p-23));  // as clip_scales: not above
      const double whole = std::abs(scaled_integer(scale, -entry)) * std::sqrt(entries);
      EXPECT_LE(whole, std::min(norm, 1.0) * 0x1p20 + std::sqrt(entries) / 2) << entries << " x " << entry;
      const double real = add_scaled(0, scale, entry) * std::sqrt(entries);
      EXPECT_LE(real, std::min(norm, 1.0) * 0x1p20 * (1 + 0x1p-22)) << entries << " x " << entry;
    }
}

TEST(ScaledSum, IsRoundedOnceAndToTheNearestEvenInteger) {
  EXPECT_EQ(add_scaled(1, 1 + 0x1p-23f, 1 + 0x1p-23f), std::fma(1 + 0x1p-23f, 1 + 0x1p-23f, 1.0f));
  EXPECT_EQ(add_scaled(-1, 1 + 0x1p-23f, 1 - 0x1p-23f), -0x1p-46f);
  EXPECT_EQ(scaled_integer(1, 2.5f), 2);
  EXPECT_EQ(scaled_integer(1, 3.5f), 4);
  EXPECT_EQ(scaled_integer(-0.5f, 5), -2);
}

TEST(NormalsOfABlock, HaveTheBitsOfTheStreamForEveryGenerator) {
  const StreamKey key = key_of(7);
  const uint64_t step = 0x0123456789abcdef;
  for (const Generator generator : {Generator::kChaCha20, Generator::kPhilox})
    for (const uint64_t group : {uint64_t{0}, uint64_t{3}, (uint64_t{1} << 28) - 1, uint64_t{1} << 50}) {
      std::vector<double> expected(256);
      fill_normals(key, step, 128 * group, generator, expected);
      for (uint64_t block = 0; block < 32; ++block) {
        double normals[random_internal::kNormalsOfBlock];
        const random_internal::Stream stream = {key.words().data(), step};
        generator == Generator::kChaCha20
            ? random_internal::normals_of_block<true>(stream, 16 * group + block, normals)
            : random_internal::normals_of_block<false>(stream, 16 * group + block, normals);
        for (int n = 0; n < random_internal::kNormalsOfBlock; ++n)
          ASSERT_EQ(normals[n], expected[block / 16 * 128 + 16 * n + block % 16])
              << to_string(generator) << " group " << group << " block " << block << " normal " << n;
      }
    }
}

template <typename Int>
void expect_noise_of_cpu(const Shard& shard, Generator generator, double stddev) {
  const std::vector<Int> sum = some_sums<Int>(shard.count);
  std::vector<float> expected(shard.count), out(shard.count);
  const double scale = 0x1p-20 / 64;
  add_noise(key_of(3), 9, shard.first, {stddev, generator}, scale, std::span<const Int>(sum), expected);
  run(generator, range_of(key_of(3), 9, stddev, scale, shard), sum.data(), WriteNoisy{out.data()});
  EXPECT_EQ(out, expected) << shard.first << " + " << shard.count;
}

TEST(NoisyBlock, WritesTheBitsOfTheCpuForEveryShardGeneratorAndWidth) {
  for (const Shard& shard : kShards)
    for (const Generator generator : {Generator::kChaCha20, Generator::kPhilox}) {
      expect_noise_of_cpu<int32_t>(shard, generator, 0x1p20);
      expect_noise_of_cpu<int64_t>(shard, generator, 1000.5);
      expect_noise_of_cpu<int32_t>(shard, generator, 0);
    }
}

struct Buffers {
  std::vector<float> m, v, w;
  std::vector<uint16_t> compute;
  explicit Buffers(int64_t count) : compute(count) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      m.push_back(normal(random) * 0.1f);
      v.push_back(std::abs(normal(random)) * 0.01f);
      w.push_back(normal(random));
    }
  }
};

std::vector<DecayRange> ranges_of(int64_t count) {
  return {{0, count / 3, true}, {count / 3, count / 2, false}, {count / 2, count, true}};
}

// The noisy gradient that the CPU hands to its optimizer.
std::vector<float> gradient_of(const Shard& shard, const std::vector<int32_t>& sum) {
  std::vector<float> gradient(shard.count);
  add_noise(key_of(4), 2, shard.first, {0x1p15}, 0x1p-18, std::span<const int32_t>(sum), gradient);
  return gradient;
}

TEST(NoisyBlock, UpdatesByAdamwAsTheCpuDoesAndLeavesTheSumZero) {
  const AdamwStep step = {
      .learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.1, .step = 7};
  for (const Shard& shard : kShards) {
    std::vector<int32_t> sum = some_sums<int32_t>(shard.count);
    const std::vector<float> gradient = gradient_of(shard, sum);
    const std::vector<DecayRange> ranges = ranges_of(shard.count);
    Buffers expected(shard.count), b(shard.count);
    adamw_step(
        step, ranges, [&](int64_t begin, std::span<float>) { return gradient.data() + begin; }, expected.m,
        expected.v, expected.w, expected.compute);
    const AdamwUpdate update = {constants_of(step, true),
                                constants_of(step, false),
                                {ranges.data(), static_cast<int64_t>(ranges.size())},
                                b.m.data(),
                                b.v.data(),
                                b.w.data(),
                                b.compute.data()};
    run(Generator::kChaCha20, range_of(key_of(4), 2, 0x1p15, 0x1p-18, shard), sum.data(), update);
    EXPECT_EQ(b.m, expected.m);
    EXPECT_EQ(b.v, expected.v);
    EXPECT_EQ(b.w, expected.w) << shard.first << " + " << shard.count;
    EXPECT_EQ(b.compute, expected.compute);
    EXPECT_EQ(sum, std::vector<int32_t>(shard.count, 0));
  }
}

TEST(NoisyBlock, UpdatesBySgdAsTheCpuDoesWithAndWithoutMomentum) {
  for (const Shard& shard : kShards)
    for (const double momentum : {0.9, 0.0}) {
      const SgdStep step = {.learning_rate = 0.01, .momentum = momentum, .weight_decay = 0.1};
      std::vector<int32_t> sum = some_sums<int32_t>(shard.count);
      const std::vector<float> gradient = gradient_of(shard, sum);
      const std::vector<DecayRange> ranges = ranges_of(shard.count);
      Buffers expected(shard.count), b(shard.count);
      sgd_step(
          step, ranges, [&](int64_t begin, std::span<float>) { return gradient.data() + begin; },
          momentum == 0 ? std::span<float>() : std::span<float>(expected.v), expected.w, expected.compute);
      const auto update = [&]<bool kMomentum>() {
        const SgdUpdate<kMomentum> one = {constants_of(step, true),
                                          constants_of(step, false),
                                          {ranges.data(), static_cast<int64_t>(ranges.size())},
                                          b.v.data(),
                                          b.w.data(),
                                          b.compute.data()};
        run(Generator::kChaCha20, range_of(key_of(4), 2, 0x1p15, 0x1p-18, shard), sum.data(), one);
      };
      momentum == 0 ? update.template operator()<false>() : update.template operator()<true>();
      EXPECT_EQ(b.v, expected.v);
      EXPECT_EQ(b.w, expected.w) << shard.first << " + " << shard.count << " momentum " << momentum;
      EXPECT_EQ(b.compute, expected.compute);
    }
}

}  // namespace
}  // namespace dpfa::kernels::cuda
