#include "src/base/random/normal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/cpu_dispatch.h"
#include "src/base/random/philox.h"
#include "tests/support/statistics.h"

namespace dpfa {
namespace {

using dpfa::testing::kZ7;

constexpr size_t kGroup = 128;

StreamKey key_of(uint64_t seed, Purpose purpose = Purpose::kNoise) {
  return RootKey::from_insecure_seed(seed).stream(purpose);
}

std::vector<double> normals(const StreamKey& key, uint64_t step, uint64_t first, size_t count,
                            Generator generator = Generator::kChaCha20) {
  std::vector<double> out(count);
  fill_normals(key, step, first, generator, out);
  return out;
}

struct Pair {
  double first, second;
};

Pair transform(uint64_t radius, uint64_t angle) {
  Pair p;
  box_muller({&radius, 1}, {&angle, 1}, {&p.first, 1}, {&p.second, 1});
  return p;
}

// The transform in long double from its definition.
struct Reference {
  long double radius, first, second;
  Reference(uint64_t radius_word, uint64_t angle_word) {
    const long double u =
        (static_cast<long double>(radius_word) * 2048 + (angle_word & 2047) + 0.5L) * 0x1p-75L;
    radius = std::sqrt(-2 * std::log(u));
    const long double t =
        (static_cast<long double>(angle_word >> 11 & ((uint64_t{1} << 51) - 1)) + 0.5L) * 0x1p-51L - 0.5L;
    const long double quarter = 1.57079632679489661923L;
    long double c = std::cos(quarter * t), s = std::sin(quarter * t);
    if (angle_word >> 62 & 1) std::swap(c, s);
    const long double sign = angle_word >> 63 ? -1 : 1;
    first = sign * radius * c;
    second = sign * radius * s;
  }
};

TEST(BoxMuller, EqualsItsDefinitionInLongDouble) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200000; ++i) {
    // The shift visits all magnitudes of the radius word, 0 included.
    const uint64_t radius = random() >> (i % 64), angle = random();
    const Reference expected(radius, angle);
    const Pair actual = transform(radius, angle);
    // Near u = 1 the rounding of u to 53 bits moves the radius by 2^-53 / radius.
    const long double tolerance = 0x1p-50L * expected.radius + 0x1p-53L / std::max(expected.radius, 1e-9L);
    ASSERT_NEAR(actual.first, expected.first, static_cast<double>(tolerance)) << radius << " " << angle;
    ASSERT_NEAR(actual.second, expected.second, static_cast<double>(tolerance)) << radius << " " << angle;
  }
}

TEST(BoxMuller, RadiusHasMoreThan64BitsOfRangeAndItsSmallestWordsAreEvenlySpaced) {
  // With R = 0 only the low bits of the angle word are left: u = (j + 1/2) 2^-75 must come back from the
  // radius.
  for (uint64_t word = 0; word < 1 << 16; ++word) {
    const uint64_t low = word & 2047, radius = word >> 11;
    const Pair p = transform(radius, low | uint64_t{0x155555} << 20);
    const double scaled = std::exp(-0.5 * (p.first * p.first + p.second * p.second)) * 0x1p75;
    ASSERT_NEAR(scaled / (static_cast<double>(word) + 0.5), 1, 1e-12) << word;
  }
  const Pair largest = transform(0, 0);
  EXPECT_NEAR(std::hypot(largest.first, largest.second), std::sqrt(2 * 76 * std::log(2.0)), 1e-12);
  // What 64 bits of range would end at.
  EXPECT_GT(std::hypot(largest.first, largest.second), std::sqrt(2 * 65 * std::log(2.0)));
}

TEST(BoxMuller, EveryPairOfWordsGivesFiniteNumbers) {
  const std::vector<uint64_t> words = {0,
                                       1,
                                       2047,
                                       2048,
                                       ~uint64_t{0},
                                       ~uint64_t{0} - 1,
                                       uint64_t{1} << 63,
                                       uint64_t{1} << 62,
                                       (uint64_t{1} << 62) - 1,
                                       ~uint64_t{0} >> 11,
                                       ~uint64_t{0} << 11};
  for (uint64_t radius : words)
    for (uint64_t angle : words) {
      const Pair p = transform(radius, angle);
      EXPECT_TRUE(std::isfinite(p.first) && std::isfinite(p.second)) << radius << " " << angle;
      EXPECT_LE(std::hypot(p.first, p.second), 10.27);
    }
}

TEST(BoxMuller, QuadrantBitsNegateAndSwapExactly) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t radius = random(), angle = random() >> 2;
    const Pair p = transform(radius, angle), swapped = transform(radius, angle | uint64_t{1} << 62),
               negated = transform(radius, angle | uint64_t{1} << 63);
    EXPECT_EQ(swapped.first, p.second);
    EXPECT_EQ(swapped.second, p.first);
    EXPECT_EQ(negated.first, -p.first);
    EXPECT_EQ(negated.second, -p.second);
  }
}

// The stream as normal.h describes it, from the block functions one normal at a time.
double normal_at(const StreamKey& key, uint64_t step, uint64_t i, Generator generator) {
  const uint64_t group = i / kGroup, n = i % kGroup / 16, b = i % 16, pair = n / 2;
  const uint32_t step_low = static_cast<uint32_t>(step), step_high = static_cast<uint32_t>(step >> 32);
  std::array<uint32_t, 4> w;
  if (generator == Generator::kChaCha20) {
    const uint64_t block = 16 * group + b;
    const auto words = chacha20_block(key.words(), static_cast<uint32_t>(block),
                                      {static_cast<uint32_t>(block >> 32), step_low, step_high});
    std::copy_n(words.begin() + 4 * pair, 4, w.begin());
  } else {
    const uint64_t counter = 64 * group + 16 * pair + b;
    w = philox4x32(
        {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), step_low, step_high},
        {key.words()[0], key.words()[1]});
  }
  const Pair p = transform(w[0] | uint64_t{w[1]} << 32, w[2] | uint64_t{w[3]} << 32);
  return n % 2 == 0 ? p.first : p.second;
}

TEST(Normals, AreTheDocumentedFunctionOfKeyStepAndIndexOnEveryInstructionSet) {
  const uint64_t step = 0x0123456789abcdef;
  for (const Generator generator : {Generator::kChaCha20, Generator::kPhilox})
    for (const uint64_t first : {uint64_t{0}, (uint64_t{1} << 35) - 300, uint64_t{1} << 60}) {
      std::vector<double> expected;
      for (uint64_t i = first; i < first + 700; ++i)
        expected.push_back(normal_at(key_of(7), step, i, generator));
      for (const CpuPath path : available_cpu_paths()) {
        set_cpu_path(path);
        EXPECT_EQ(normals(key_of(7), step, first, expected.size(), generator), expected)
            << to_string(generator) << " " << to_string(path) << " from " << first;
      }
    }
  set_cpu_path(available_cpu_paths().back());
}

TEST(Normals, HaveTheSameBitsOnEveryInstructionSet) {
  std::mt19937_64 random(3);
  std::vector<uint64_t> radius(100000), angle(radius.size());
  for (size_t i = 0; i < radius.size(); ++i) {
    radius[i] = i % 2 == 0 ? random() : random() >> (i % 64);
    angle[i] = random();
  }
  std::vector<double> x(radius.size()), y(x), expected_x(x), expected_y(x);
  set_cpu_path(CpuPath::kPortable);
  box_muller(radius, angle, expected_x, expected_y);
  const std::vector<double> expected = normals(key_of(8), 5, 77, 300001);
  for (const CpuPath path : available_cpu_paths()) {
    set_cpu_path(path);
    box_muller(radius, angle, x, y);
    EXPECT_EQ(x, expected_x) << to_string(path);
    EXPECT_EQ(y, expected_y) << to_string(path);
    EXPECT_EQ(normals(key_of(8), 5, 77, 300001), expected) << to_string(path);
  }
  set_cpu_path(available_cpu_paths().back());
}

TEST(Normals, DependOnTheirIndexAndNotOnTheRangeAskedFor) {
  const std::vector<double> all = normals(key_of(9), 2, 0, 2000);
  for (const size_t begin : {0, 1, 15, 16, 127, 128, 129, 1000})
    for (const size_t count : {0, 1, 17, 127, 128, 257, 900}) {
      const std::vector<double> part = normals(key_of(9), 2, begin, count);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + begin)) << begin << " + " << count;
    }
}

TEST(Normals, EndAtTwoToThe64) {
  std::vector<double> two(2);
  EXPECT_THROW(fill_normals(key_of(1), 0, ~uint64_t{0}, Generator::kChaCha20, two), InternalError);
}

class NormalLaw : public ::testing::TestWithParam<Generator> {};
INSTANTIATE_TEST_SUITE_P(Generators, NormalLaw, ::testing::Values(Generator::kChaCha20, Generator::kPhilox),
                         [](const auto& generator) { return std::string(to_string(generator.param)); });

TEST_P(NormalLaw, MomentsAndTailsAreThoseOfAStandardNormal) {
  // False-alarm rate 1e-7 for each of the seven comparisons.
  constexpr size_t kBatch = 1 << 20, kBatches = 64;
  double sum = 0, squares = 0, cubes = 0, fourths = 0;
  int above4 = 0, above5 = 0, positive = 0;
  for (size_t batch = 0; batch < kBatches; ++batch)
    for (const double z : normals(key_of(11), 1, batch * kBatch, kBatch, GetParam())) {
      const double square = z * z;
      sum += z;
      squares += square;
      cubes += square * z;
      fourths += square * square;
      above4 += std::abs(z) > 4;
      above5 += std::abs(z) > 5;
      positive += z > 0;
    }
  const double n = kBatch * kBatches, root = std::sqrt(n);
  EXPECT_LT(std::abs(sum / root), kZ7);
  EXPECT_LT(std::abs((squares - n) / (std::sqrt(2.0) * root)), kZ7);
  EXPECT_LT(std::abs(cubes / (std::sqrt(15.0) * root)), kZ7);
  EXPECT_LT(std::abs((fourths - 3 * n) / (std::sqrt(96.0) * root)), kZ7);
  EXPECT_LT(std::abs((positive - n / 2) / (root / 2)), kZ7);
  EXPECT_GT(dpfa::testing::poisson_tail(n * dpfa::testing::two_sided_tail(4), above4), 0.5e-7) << above4;
  EXPECT_GT(dpfa::testing::poisson_tail(n * dpfa::testing::two_sided_tail(5), above5), 0.5e-7) << above5;
}

TEST_P(NormalLaw, KolmogorovSmirnovDistanceToTheNormalLawIsThatOfASample) {
  // False-alarm rate 1e-7.
  std::vector<double> z = normals(key_of(12), 1, 0, 1 << 22, GetParam());
  std::sort(z.begin(), z.end());
  const double n = static_cast<double>(z.size());
  double distance = 0;
  for (size_t i = 0; i < z.size(); ++i) {
    const double cdf = dpfa::testing::normal_cdf(z[i]), below = static_cast<double>(i) / n;
    distance = std::max({distance, cdf - below, below + 1 / n - cdf});
  }
  EXPECT_LT(std::sqrt(n) * distance, dpfa::testing::kKolmogorov7);
}

TEST_P(NormalLaw, EveryLaneIsSymmetricWithUnitVariance) {
  // 3 x 128 comparisons at 1e-9 each (|z| > 6.11): false-alarm rate 4e-7.
  constexpr double kZ9 = 6.11;
  const std::vector<double> z = normals(key_of(13), 1, 0, kGroup << 15, GetParam());
  const double n = static_cast<double>(z.size() / kGroup);
  for (size_t lane = 0; lane < kGroup; ++lane) {
    double sum = 0, squares = 0, positive = 0;
    for (size_t i = lane; i < z.size(); i += kGroup) {
      sum += z[i];
      squares += z[i] * z[i];
      positive += z[i] > 0;
    }
    EXPECT_LT(std::abs(sum) / std::sqrt(n), kZ9) << "lane " << lane;
    EXPECT_LT(std::abs(squares - n) / std::sqrt(2 * n), kZ9) << "lane " << lane;
    EXPECT_LT(std::abs(positive - n / 2) / std::sqrt(n / 4), kZ9) << "lane " << lane;
  }
}

// The correlations of two samples, and of their squares, as standard normals under independence.
void expect_independent(std::span<const double> a, std::span<const double> b, const std::string& what) {
  double product = 0, product_of_squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    product_of_squares += (a[i] * a[i] - 1) * (b[i] * b[i] - 1) / 2;
  }
  const double root = std::sqrt(static_cast<double>(a.size()));
  EXPECT_LT(std::abs(product / root), kZ7) << what;
  EXPECT_LT(std::abs(product_of_squares / root), kZ7) << what << ", squares";
}

TEST_P(NormalLaw, StreamsOfOtherStepsKeysPurposesAndIndicesAreIndependent) {
  // 40 comparisons at 1e-7 each.
  constexpr size_t kCount = 1 << 20;
  const Generator g = GetParam();
  const std::vector<double> base = normals(key_of(14), 1, 0, kCount, g);
  for (const uint64_t step : {uint64_t{0}, uint64_t{2}, uint64_t{1} + (uint64_t{1} << 32)})
    expect_independent(base, normals(key_of(14), step, 0, kCount, g), "step " + std::to_string(step));
  expect_independent(base, normals(key_of(15), 1, 0, kCount, g), "another root");
  for (const Purpose purpose : {Purpose::kSampling, Purpose::kDither, Purpose::kMask})
    expect_independent(base, normals(key_of(14, purpose), 1, 0, kCount, g), "another purpose");
  for (const uint64_t shift : {uint64_t{1} << 31, uint64_t{1} << 32, uint64_t{1} << 35, uint64_t{1} << 39})
    expect_independent(base, normals(key_of(14), 1, shift, kCount, g), "shift " + std::to_string(shift));
  for (const size_t lag : {1, 2, 8, 15, 16, 17, 32, 64, 128})
    expect_independent(std::span(base).first(kCount - lag), std::span(base).subspan(lag),
                       "lag " + std::to_string(lag));
}

}  // namespace
}  // namespace dpfa
