#include "kernels/optimizer_step.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "src/base/error.h"

namespace dpfa::kernels {
namespace {

struct Buffers {
  std::vector<float> g, m, v, w;
  std::vector<uint16_t> compute;
  explicit Buffers(size_t count) : compute(count) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < count; ++i) {
      g.push_back(normal(random));
      m.push_back(normal(random) * 0.1f);
      v.push_back(std::abs(normal(random)) * 0.01f);
      w.push_back(normal(random));
    }
  }
};

GradientChunk of(std::span<const float> gradient) {
  return [gradient](int64_t begin, std::span<float>) { return gradient.data() + begin; };
}

std::vector<DecayRange> three_ranges(int64_t count) {
  return {{0, count / 3, true},
          {count / 3, count / 3, true},
          {count / 3, count / 2, false},
          {count / 2, count, true}};
}

const AdamwStep kAdamw = {
    .learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.1, .step = 7};

TEST(Adamw, EqualsItsFormulaInDoubleAndDecaysOnlyWhereAsked) {
  constexpr int64_t kCount = 40001;
  const Buffers before(kCount);
  Buffers b(kCount);
  adamw_step(kAdamw, three_ranges(kCount), of(b.g), b.m, b.v, b.w, {});
  for (int64_t i = 0; i < kCount; ++i) {
    const double g = before.g[i], m = 0.9 * before.m[i] + 0.1 * g, v = 0.999 * before.v[i] + 0.001 * g * g;
    const double mhat = m / (1 - std::pow(0.9, 7)), vhat = v / (1 - std::pow(0.999, 7));
    const double decay = i >= kCount / 3 && i < kCount / 2 ? 0 : 0.1;
    const double w = before.w[i] - 0.01 * (decay * before.w[i] + mhat / (std::sqrt(vhat) + 1e-8));
    ASSERT_NEAR(b.m[i], m, 1e-6 * (std::abs(0.9 * before.m[i]) + std::abs(g))) << i;
    ASSERT_NEAR(b.v[i], v, 1e-6 * v) << i;
    ASSERT_NEAR(b.w[i], w, 1e-6 * (1 + std::abs(w))) << i;
  }
}

TEST(Adamw, HasTheSameBitsForAnyThreadCount) {
  const int threads = omp_get_max_threads();
  Buffers expected(100003);
  omp_set_num_threads(1);
  adamw_step(kAdamw, three_ranges(100003), of(expected.g), expected.m, expected.v, expected.w,
             expected.compute);
  for (const int count : {2, 3, 7}) {
    Buffers b(100003);
    omp_set_num_threads(count);
    adamw_step(kAdamw, three_ranges(100003), of(b.g), b.m, b.v, b.w, b.compute);
    EXPECT_EQ(b.m, expected.m);
    EXPECT_EQ(b.v, expected.v);
    EXPECT_EQ(b.w, expected.w);
    EXPECT_EQ(b.compute, expected.compute);
  }
  omp_set_num_threads(threads);
}

TEST(Adamw, HasTheBitsOfTheScalarLoopWithOneRoundingPerOperation) {
  // The clones for wider instruction sets must not fuse multiply and add. volatile keeps the compiler of this
  // test from doing so.
  constexpr size_t kCount = 1003;
  Buffers b(kCount);
  const Buffers before(kCount);
  const DecayRange all = {0, kCount, true};
  adamw_step(kAdamw, {&all, 1}, of(b.g), b.m, b.v, b.w, {});
  const float mhat = static_cast<float>(1 / (1 - std::pow(0.9, 7.0)));
  const float vhat = static_cast<float>(1 / (1 - std::pow(0.999, 7.0)));
  for (size_t i = 0; i < kCount; ++i) {
    const float g = before.g[i];
    volatile float m1 = 0.9f * before.m[i], m2 = static_cast<float>(1 - 0.9) * g, gg = g * g;
    volatile float v1 = 0.999f * before.v[i], v2 = static_cast<float>(1 - 0.999) * gg;
    volatile float m = m1 + m2, v = v1 + v2;
    volatile float numerator = m * mhat, scaled = v * vhat, root = std::sqrt(scaled);
    volatile float denominator = root + 1e-8f, update = numerator / denominator, decay = 0.1f * before.w[i];
    volatile float direction = decay + update, change = 0.01f * direction;
    ASSERT_EQ(b.m[i], m);
    ASSERT_EQ(b.v[i], v);
    ASSERT_EQ(b.w[i], before.w[i] - change) << i;
  }
}

TEST(Adamw, AsksOnceForEveryElementAndUsesWhatTheScratchHolds) {
  constexpr int64_t kCount = 20011;
  Buffers expected(kCount), b(kCount);
  adamw_step(kAdamw, three_ranges(kCount), of(expected.g), expected.m, expected.v, expected.w, {});
  std::vector<int> asked(kCount);
  const GradientChunk filling = [&](int64_t begin, std::span<float> scratch) {
    for (size_t i = 0; i < scratch.size(); ++i) {
      ++asked[begin + i];
      scratch[i] = b.g[begin + i];
    }
    return scratch.data();
  };
  adamw_step(kAdamw, three_ranges(kCount), filling, b.m, b.v, b.w, {});
  EXPECT_EQ(b.w, expected.w);
  EXPECT_EQ(asked, std::vector<int>(kCount, 1));
}

TEST(Sgd, EqualsItsFormulaWithAndWithoutMomentum) {
  constexpr int64_t kCount = 40001;
  const Buffers before(kCount);
  for (const double momentum : {0.9, 0.0}) {
    Buffers b(kCount);
    std::span<float> velocity = momentum == 0 ? std::span<float>() : std::span<float>(b.v);
    sgd_step({.learning_rate = 0.01, .momentum = momentum, .weight_decay = 0.1}, three_ranges(kCount),
             of(b.g), velocity, b.w, b.compute);
    for (int64_t i = 0; i < kCount; ++i) {
      const double update = momentum * before.v[i] + before.g[i];
      const double decay = i >= kCount / 3 && i < kCount / 2 ? 0 : 0.1;
      ASSERT_NEAR(b.w[i], before.w[i] - 0.01 * (decay * before.w[i] + update),
                  1e-6 * (1 + std::abs(before.w[i])));
      if (momentum != 0) {
        ASSERT_NEAR(b.v[i], update, 1e-6 * (1 + std::abs(update)));
      }
    }
  }
}

// bfloat16 of w: learning rate 0 leaves w as it is.
uint16_t to_bfloat16(float w) {
  const float g = 0;
  uint16_t compute = 0;
  const DecayRange one = {0, 1, false};
  sgd_step({.learning_rate = 0, .momentum = 0, .weight_decay = 0}, {&one, 1}, of({&g, 1}), {}, {&w, 1},
           {&compute, 1});
  return compute;
}

TEST(ComputeCopy, IsTheNearestBfloat16WithTiesToEven) {
  const auto of_bits = [](uint32_t bits) { return to_bfloat16(std::bit_cast<float>(bits)); };
  EXPECT_EQ(of_bits(0x3F800000), 0x3F80);
  EXPECT_EQ(of_bits(0x3F807FFF), 0x3F80);
  EXPECT_EQ(of_bits(0x3F808000), 0x3F80);  // tie, even below
  EXPECT_EQ(of_bits(0x3F818000), 0x3F82);  // tie, even above
  EXPECT_EQ(of_bits(0x3F808001), 0x3F81);
  EXPECT_EQ(of_bits(0xBF818000), 0xBF82);
  EXPECT_EQ(of_bits(0x7F7FFFFF), 0x7F80);  // rounds to infinity
  EXPECT_EQ(of_bits(0x80000000), 0x8000);
  EXPECT_EQ(of_bits(0x00008001), 0x0001);  // subnormal
}

TEST(ComputeCopy, OfANanIsANan) {
  for (const uint32_t bits : {0x7FC00000u, 0x7F800001u, 0xFFFFFFFFu}) {
    const uint16_t compute = to_bfloat16(std::bit_cast<float>(bits));
    EXPECT_TRUE(std::isnan(std::bit_cast<float>(uint32_t{compute} << 16))) << std::hex << bits;
  }
}

TEST(ComputeCopy, OfAWholeBufferIsTheRoundedWeightsAfterTheStep) {
  Buffers b(20011);
  adamw_step(kAdamw, three_ranges(20011), of(b.g), b.m, b.v, b.w, b.compute);
  for (size_t i = 0; i < b.w.size(); ++i) ASSERT_EQ(b.compute[i], to_bfloat16(b.w[i])) << i;
}

TEST(OptimizerStep, RefusesRangesAndBuffersThatDoNotFit) {
  Buffers b(10);
  const std::vector<std::vector<DecayRange>> wrong = {{},
                                                      {{0, 9, true}},
                                                      {{0, 11, true}},
                                                      {{1, 10, true}},
                                                      {{0, 4, true}, {5, 10, true}},
                                                      {{0, 6, true}, {5, 10, true}}};
  for (const auto& ranges : wrong)
    EXPECT_THROW(adamw_step(kAdamw, ranges, of(b.g), b.m, b.v, b.w, {}), InternalError) << ranges.size();
  const DecayRange all = {0, 10, true};
  const std::span<const DecayRange> fits(&all, 1);
  EXPECT_THROW(adamw_step(kAdamw, fits, of(b.g), std::span(b.m).first(9), b.v, b.w, {}), InternalError);
  EXPECT_THROW(adamw_step(kAdamw, fits, of(b.g), b.m, b.v, b.w, std::span(b.compute).first(9)),
               InternalError);
  EXPECT_THROW(sgd_step({.learning_rate = 1, .momentum = 0.9, .weight_decay = 0}, fits, of(b.g), {}, b.w, {}),
               InternalError);
  AdamwStep zeroth = kAdamw;
  zeroth.step = 0;
  EXPECT_THROW(adamw_step(zeroth, fits, of(b.g), b.m, b.v, b.w, {}), InternalError);
}

TEST(OptimizerStep, OfNoParametersDoesNothing) {
  EXPECT_NO_THROW(adamw_step(kAdamw, {}, {}, {}, {}, {}, {}));
}

}  // namespace
}  // namespace dpfa::kernels
