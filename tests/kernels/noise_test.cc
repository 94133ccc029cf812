#include "kernels/noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/cpu_dispatch.h"
#include "src/base/random/normal.h"
#include "tests/support/statistics.h"

namespace dpfa::kernels {
namespace {

using dpfa::testing::kZ7;

StreamKey key_of(uint64_t seed, Purpose purpose = Purpose::kNoise) {
  return RootKey::from_insecure_seed(seed).stream(purpose);
}

struct Release {
  uint64_t seed = 1;
  uint64_t step = 1;
  uint64_t first = 0;
  NoiseSpec spec = {.stddev_in_grid_units = 0x1p20};
  double scale = 1;
};

template <typename Int>
std::vector<float> noisy(const Release& r, const std::vector<Int>& sum) {
  std::vector<float> out(sum.size());
  add_noise(key_of(r.seed), r.step, r.first, r.spec, r.scale, std::span<const Int>(sum), out);
  return out;
}

std::vector<int32_t> some_sums(size_t count) {
  std::vector<int32_t> sum(count);
  for (size_t i = 0; i < count; ++i) sum[i] = static_cast<int32_t>(i * 2654435761u) >> 8;
  return sum;
}

TEST(Noise, IsTheRoundedNormalOfKeyStepAndIndexAddedAsAnInteger) {
  const std::vector<int32_t> sum = some_sums(5000);
  const Release r = {.seed = 3, .step = 9, .first = 1000, .scale = 0x1p-20 / 64};
  std::vector<double> normals(sum.size());
  fill_normals(key_of(3), 9, 1000, Generator::kChaCha20, normals);
  const std::vector<float> out = noisy(r, sum);
  for (size_t i = 0; i < sum.size(); ++i) {
    const int64_t noise = std::llrint(0x1p20 * normals[i]);
    ASSERT_EQ(out[i], static_cast<float>(r.scale * static_cast<double>(sum[i] + noise))) << i;
  }
}

TEST(Noise, HasTheDeclaredStandardDeviationWhateverTheScaleAndTheSum) {
  // Two comparisons at 1e-7 each per case; rounding adds 1/12 to the variance of a wide normal.
  constexpr size_t kCount = 1 << 21;
  const std::vector<int32_t> sum = some_sums(kCount);
  uint64_t step = 0;
  for (const double stddev : {2.0, 1000.5, 0x1p20, 0x1p22})
    for (const double scale : {1.0, 0x1p-10, 0x1p5}) {
      const Release r = {.seed = 4, .step = ++step, .spec = {.stddev_in_grid_units = stddev}, .scale = scale};
      const std::vector<float> out = noisy(r, sum);
      double first = 0, second = 0;
      for (size_t i = 0; i < kCount; ++i) {
        const double noise = out[i] / scale - sum[i];
        first += noise;
        second += noise * noise;
      }
      const double variance = stddev * stddev + 1.0 / 12;
      EXPECT_LT(std::abs(first) / std::sqrt(kCount * variance), kZ7) << stddev << " " << scale;
      EXPECT_LT(std::abs(second / variance - kCount) / std::sqrt(2.0 * kCount), kZ7)
          << stddev << " " << scale;
    }
}

TEST(Noise, HasTheTailOfANormal) {
  // False-alarm rate 1e-7 for each of the three comparisons.
  constexpr size_t kCount = 1 << 25;
  const std::vector<float> out = noisy<int32_t>({.seed = 5}, std::vector<int32_t>(kCount, 0));
  for (const double z : {4.0, 5.0}) {
    int above = 0, below = 0;
    for (const float noise : out) {
      above += noise > z * 0x1p20;
      below += noise < -z * 0x1p20;
    }
    const double expected = kCount * dpfa::testing::two_sided_tail(z);
    EXPECT_GT(dpfa::testing::poisson_tail(expected, above + below), 0.5e-7)
        << z << " sigma: " << above + below;
    if (z == 4.0) {
      EXPECT_LT(std::abs(above - below) / std::sqrt(expected), kZ7) << above << " against " << below;
    }
  }
}

TEST(Noise, CommutesWithAddingAnInteger) {
  // Whatever the sum is, the same noise is added: outputs differ by exactly the sums' difference.
  const std::vector<int32_t> zeros(10000, 0), ones(10000, 1), many(10000, -123456);
  const std::vector<float> a = noisy<int32_t>({}, zeros), b = noisy<int32_t>({}, ones),
                           c = noisy<int32_t>({}, many);
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(b[i] - a[i], 1.0f);
    ASSERT_EQ(a[i] - c[i], 123456.0f);
  }
}

TEST(Noise, DoesNotDependOnShards) {
  const std::vector<int32_t> sum = some_sums(10007);
  const std::vector<float> expected = noisy<int32_t>({}, sum);
  for (const size_t cut : {1, 127, 128, 4096, 10006}) {
    const std::vector<int32_t> left(sum.begin(), sum.begin() + cut), right(sum.begin() + cut, sum.end());
    std::vector<float> out = noisy<int32_t>({}, left);
    const std::vector<float> rest = noisy<int32_t>({.first = cut}, right);
    out.insert(out.end(), rest.begin(), rest.end());
    EXPECT_EQ(out, expected) << cut;
  }
}

TEST(Noise, HasTheSameBitsOnEveryInstructionSet) {
  const std::vector<int32_t> sum = some_sums(50001);
  const std::vector<float> expected = noisy<int32_t>({}, sum);
  for (const CpuPath path : available_cpu_paths()) {
    set_cpu_path(path);
    EXPECT_EQ(noisy<int32_t>({}, sum), expected) << to_string(path);
  }
  set_cpu_path(available_cpu_paths().back());
}

// The correlation of two noise vectors as a standard normal under independence.
double correlation(const std::vector<float>& a, const std::vector<float>& b) {
  double product = 0;
  for (size_t i = 0; i < a.size(); ++i) product += static_cast<double>(a[i]) * b[i] * 0x1p-40;
  return std::abs(product) / std::sqrt(static_cast<double>(a.size()));
}

TEST(Noise, OfOneStepIsIndependentOfThatOfOtherSteps) {
  // Four comparisons at 1e-7 each.
  const std::vector<int32_t> zeros(1 << 20, 0);
  const std::vector<float> base = noisy<int32_t>({.step = 1}, zeros);
  for (const uint64_t step : {uint64_t{0}, uint64_t{2}, uint64_t{3}, uint64_t{1} << 32})
    EXPECT_LT(correlation(base, noisy<int32_t>({.step = step}, zeros)), kZ7) << "step " << step;
}

TEST(Noise, OfOneKeyIsIndependentOfThatOfOtherKeysPurposesAndGenerators) {
  // Four comparisons at 1e-7 each.
  const std::vector<int32_t> zeros(1 << 20, 0);
  const std::vector<float> base = noisy<int32_t>({}, zeros);
  EXPECT_LT(correlation(base, noisy<int32_t>({.seed = 2}, zeros)), kZ7);
  EXPECT_LT(correlation(base, noisy<int32_t>({.spec = {0x1p20, Generator::kPhilox}}, zeros)), kZ7);
  for (const Purpose purpose : {Purpose::kDither, Purpose::kMask}) {
    std::vector<float> other(zeros.size());
    add_noise(key_of(1, purpose), 1, 0, Release().spec, 1, std::span<const int32_t>(zeros), other);
    EXPECT_LT(correlation(base, other), kZ7);
  }
}

// What an observer of the released floats learns from their low bits alone.
struct LowBits {
  std::vector<double> residues = std::vector<double>(256, 0.0);  // of the grid units, modulo 256
  double off_grid = 0;                                           // values between two grid units
  double fine = 0;                                               // values with bits below 2^-24
};

LowBits low_bits(uint64_t step, int32_t x, size_t count) {
  LowBits seen;
  const Release r = {.seed = 6, .step = step, .scale = 0x1p-20};
  for (const float y : noisy(r, std::vector<int32_t>(count, x))) {
    const double units = static_cast<double>(y) * 0x1p20;
    seen.off_grid += units != std::floor(units);
    seen.fine += units * 16 != std::floor(units * 16);
    ++seen.residues[static_cast<size_t>(static_cast<int64_t>(std::floor(units)) & 255)];
  }
  return seen;
}

TEST(Noise, LowBitsDoNotTellASumOfZeroFromASumOfOne) {
  // "One" is one standard deviation of the noise, 2^20 grid units. Float noise added to a float 1 loses its
  // bits below 2^-24, float noise added to 0 keeps them (Mironov 2012): whoever sees such bits knows that x =
  // 0. Floats hold all integers up to 2^24 and the noise stays below 2^23.4, so our cast drops nothing.
  constexpr size_t kCount = 1 << 20;
  for (const CpuPath path : available_cpu_paths()) {
    set_cpu_path(path);
    const LowBits zero = low_bits(1, 0, kCount), one = low_bits(2, 1 << 20, kCount);
    EXPECT_LT(std::abs(zero.fine - one.fine) / kCount, 1e-3) << "advantage of the distinguisher";
    EXPECT_EQ(zero.off_grid, 0) << to_string(path);
    EXPECT_EQ(one.off_grid, 0) << to_string(path);
    // A chi-square of 255 degrees of freedom exceeds 390 with probability 1e-7, the false-alarm rate.
    double chi_square = 0;
    for (size_t residue = 0; residue < 256; ++residue) {
      const double a = zero.residues[residue], b = one.residues[residue];
      if (a + b > 0) chi_square += (a - b) * (a - b) / (a + b);
    }
    EXPECT_LT(chi_square, 390) << to_string(path);
  }
  set_cpu_path(available_cpu_paths().back());
  if (available_cpu_paths().size() < 3)
    std::printf("not compared here: the vector paths that this processor does not have\n");
}

TEST(Noise, OnWideSumsEqualsNoiseOnNarrowOnes) {
  const std::vector<int32_t> sum = some_sums(5001);
  EXPECT_EQ(noisy(Release{}, std::vector<int64_t>(sum.begin(), sum.end())), noisy(Release{}, sum));
}

TEST(Noise, IsAddedExactlyToSumsBeyondThePrecisionOfDouble) {
  const int64_t large = (int64_t{1} << 61) + 1;
  const std::vector<float> out = noisy(Release{}, std::vector<int64_t>(1000, large));
  const std::vector<float> noise = noisy(Release{}, std::vector<int64_t>(1000, 0));
  for (size_t i = 0; i < out.size(); ++i)
    ASSERT_EQ(out[i], static_cast<float>(static_cast<double>(large + static_cast<int64_t>(noise[i]))));
}

TEST(Noise, OfStandardDeviationZeroOnlyScales) {
  const std::vector<float> out = noisy<int32_t>({.spec = {0}, .scale = 0.5}, {4, -3, 0});
  EXPECT_EQ(out, (std::vector<float>{2, -1.5, 0}));
}

TEST(Noise, RefusesWhatItCannotRelease) {
  const std::vector<int32_t> sum(3);
  std::vector<float> two(2);
  EXPECT_THROW(add_noise(key_of(1), 0, 0, {1.0}, 1, std::span<const int32_t>(sum), two), InternalError);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double stddev : {-1.0, nan, 0x1p48, std::numeric_limits<double>::infinity()})
    EXPECT_THROW(noisy<int32_t>({.spec = {stddev}}, sum), InternalError) << stddev;
  for (const double scale : {0.0, -1.0, nan, std::numeric_limits<double>::infinity()})
    EXPECT_THROW(noisy<int32_t>({.scale = scale}, sum), InternalError) << scale;
}

}  // namespace
}  // namespace dpfa::kernels
