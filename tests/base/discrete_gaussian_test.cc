#include "src/base/random/discrete_gaussian.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <cmath>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "tests/support/statistics.h"

namespace dpfa {
namespace {

namespace mp = boost::multiprecision;
using Real = mp::number<mp::cpp_bin_float<400, mp::digit_base_2>, mp::et_off>;
using dpfa::testing::kZ7;

StreamKey key_of(uint64_t seed) { return RootKey::from_insecure_seed(seed).stream(Purpose::kNoise); }

std::vector<int64_t> samples(const DiscreteGaussian& law, uint64_t step, uint64_t first, size_t count) {
  std::vector<int64_t> out(count);
  law.fill(key_of(1), step, first, out);
  return out;
}

Real to_real(Uint128 x) {
  return ldexp(Real(static_cast<uint64_t>(x >> 64)), 64) + Real(static_cast<uint64_t>(x));
}

// The law itself, with the normaliser summed from the tail inwards.
class Law {
 public:
  explicit Law(double stddev) : stddev_(stddev) {
    for (auto k = static_cast<int64_t>(20 * stddev); k > 0; --k) total_ += 2 * weight(k);
    total_ += 1;
  }
  Real weight(int64_t k) const { return exp(-Real(k) * Real(k) / (2 * Real(stddev_) * Real(stddev_))); }
  Real probability(int64_t k) const { return weight(k) / total_; }

 private:
  double stddev_;
  Real total_ = 0;
};

// P(|x| = k) of the table.
Real table_probability(const DiscreteGaussian& law, int64_t k) {
  const auto& t = law.thresholds();
  const auto at = [&](int64_t i) {
    return i < 0                                ? Real(0)
           : i < static_cast<int64_t>(t.size()) ? to_real(t[static_cast<size_t>(i)])
                                                : ldexp(Real(1), 127);
  };
  return ldexp(Real(at(k) - at(k - 1)), -127);
}

TEST(DiscreteGaussian, TableHoldsEachProbabilityToARelativeErrorOf2ToTheMinus40DownTo2ToTheMinus87) {
  for (const double stddev : {1.0, 4.0, 24.5, 34.0, 100.0, 1000.0}) {
    const DiscreteGaussian law(stddev);
    const Law exact(law.base_stddev());
    int64_t checked = 0;
    for (int64_t k = 0; k <= static_cast<int64_t>(law.thresholds().size()); ++k) {
      const Real p = exact.probability(k) * (k == 0 ? 1 : 2), q = table_probability(law, k);
      ASSERT_LE(abs(Real(q - p)), ldexp(Real(1), -127)) << stddev << ", " << k;
      if (p < ldexp(Real(1), -87)) continue;
      ASSERT_LE(abs(Real(q / p - 1)), ldexp(Real(1), -40)) << stddev << ", " << k;
      ++checked;
    }
    EXPECT_GE(checked, static_cast<int64_t>(10 * law.base_stddev())) << stddev;
  }
}

// What one base draw adds to kChiSquare: sum of (p - q)^2 / q over all values, those without a place in the
// table included (p = 0). 11 levels of 2^-124 are below 2^-120, so their root and the 2^-60 of the levels
// stay below 2^-59.
TEST(DiscreteGaussian, TableHasAChiSquareOfLessThan2ToTheMinus124) {
  for (const double stddev : {1.0, 4.0, 24.5, 34.0, 100.0, 300.0, 0x1p20, 0x1.8p33, 0x1p40}) {
    const DiscreteGaussian law(stddev);
    const Law exact(law.base_stddev());
    Real chi_square = 0;
    for (int64_t k = 0; k <= static_cast<int64_t>(16 * law.base_stddev()); ++k) {
      const Real q = exact.probability(k) * (k == 0 ? 1 : 2);
      const Real difference =
          k <= static_cast<int64_t>(law.thresholds().size()) ? Real(table_probability(law, k) - q) : q;
      chi_square += difference * difference / q;
    }
    EXPECT_LE(chi_square, ldexp(Real(1), -124)) << stddev;
    EXPECT_LE(law.weights().size(), 11u) << stddev;
  }
}

TEST(DiscreteGaussian, TableIsAscendingAndOneLessThanAPowerOfTwoLong) {
  for (const double stddev : {1.0, 24.5, 34.6, 38.0, 1e6}) {
    const auto thresholds = DiscreteGaussian(stddev).thresholds();
    EXPECT_TRUE(std::is_sorted(thresholds.begin(), thresholds.end()));
    EXPECT_EQ((thresholds.size() + 1) & thresholds.size(), 0u);
    EXPECT_LE(thresholds.size() * sizeof(Uint128), size_t{16} << 10);
  }
}

TEST(DiscreteGaussian, StandardDeviationIsThatOfTheLevelsAndAtLeastWhatIsAskedFor) {
  for (double stddev = 1; stddev < 0x1p40; stddev *= 1.09) {
    const DiscreteGaussian law(stddev);
    EXPECT_GE(law.stddev(), stddev);
    EXPECT_LE(law.stddev(), stddev * (1 + 0x1p-39));
    long double variance = 0;
    int64_t before = 0;
    for (const int64_t weight : law.weights()) {
      variance += static_cast<long double>(weight) * static_cast<long double>(weight);
      if (before > 0) {
        EXPECT_EQ(weight % before, 0);
        EXPECT_LE(weight / before, 16);
        // What makes the sum a discrete Gaussian: r of the header.
        const double factor = static_cast<double>(weight / before);
        EXPECT_GE(law.base_stddev() / std::sqrt(factor * factor + 1), 1.528) << stddev;
      }
      before = weight;
    }
    const double drawn = law.base_stddev() * static_cast<double>(std::sqrt(variance));
    EXPECT_NEAR(drawn / stddev, 1, 0x1p-39);
    EXPECT_GE(drawn, stddev);
  }
}

TEST(DiscreteGaussian, SumOfTwoLevelsHasTheLawToARelativeErrorOf2ToTheMinus36) {
  for (const double stddev : {34.7, 100.0, 300.0, 392.8}) {
    const DiscreteGaussian law(stddev);
    ASSERT_EQ(law.weights().size(), 2u) << stddev;
    const Law exact(law.stddev());
    const int64_t weight = law.weights()[1], largest = static_cast<int64_t>(law.thresholds().size());
    std::vector<Real> half;
    for (int64_t k = 0; k <= largest; ++k) half.push_back(table_probability(law, k) * (k == 0 ? 1.0 : 0.5));
    const auto limit = static_cast<int64_t>(8 * stddev);
    for (int64_t y = 0; y <= limit; y += 1 + limit / 60) {
      Real sum = 0;
      for (int64_t x = -largest; x <= largest; ++x) {
        const int64_t rest = std::abs(y - weight * x);
        if (rest <= largest) sum += half[static_cast<size_t>(std::abs(x))] * half[static_cast<size_t>(rest)];
      }
      ASSERT_LE(abs(Real(sum / exact.probability(y) - 1)), ldexp(Real(1), -36)) << stddev << ", " << y;
    }
  }
}

TEST(DiscreteGaussian, SamplesAreTheDocumentedFunctionOfTheWords) {
  for (const double stddev : {3.0, 50.0, 0x1p20, 0x1p40}) {
    const DiscreteGaussian law(stddev);
    const size_t levels = law.weights().size();
    for (const uint64_t first : {uint64_t{0}, uint64_t{1} << 50}) {
      const std::vector<int64_t> actual = samples(law, 7, first, 300);
      std::vector<uint32_t> words(actual.size() * 4 * levels);
      fill_words(key_of(1), 7, first * 4 * levels, words);
      for (size_t i = 0; i < actual.size(); ++i) {
        int64_t expected = 0;
        for (size_t l = 0; l < levels; ++l) {
          Uint128 bits = 0;
          for (size_t j = 4; j-- > 0;) bits = bits << 32 | words[4 * (i * levels + l) + j];
          int64_t x = 0;
          for (const Uint128 threshold : law.thresholds()) x += threshold <= bits >> 1;
          expected += law.weights()[l] * ((bits & 1) != 0 ? -x : x);
        }
        ASSERT_EQ(actual[i], expected) << stddev << ", " << first << " + " << i;
      }
    }
  }
}

TEST(DiscreteGaussian, SamplesDependOnTheirIndexAndNotOnTheRangeAskedFor) {
  const DiscreteGaussian law(1000);
  const std::vector<int64_t> all = samples(law, 2, 0, 500);
  for (const size_t begin : {0, 1, 63, 64, 65, 200})
    for (const size_t count : {0, 1, 17, 64, 129, 300}) {
      const std::vector<int64_t> part = samples(law, 2, begin, count);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<ptrdiff_t>(begin)));
    }
  EXPECT_NE(samples(law, 3, 0, 500), all);
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
  std::vector<int64_t> two(2);
  EXPECT_THROW(law.fill(key_of(1), 0, (uint64_t{1} << 62) - 1, two), InternalError);
}

}  // namespace
}  // namespace dpfa
