#include "src/base/random/discrete_gaussian.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <boost/math/constants/constants.hpp>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <cmath>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/cpu_dispatch.h"
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

// The law itself, with the normaliser summed from the tail inwards, or, where its sum differs from the
// integral by less than exp(-2 pi^2 30^2) (Poisson), by the integral.
class Law {
 public:
  explicit Law(double stddev) : stddev_(stddev) {
    if (stddev > 30) {
      total_ = Real(stddev) * sqrt(2 * boost::math::constants::pi<Real>());
      return;
    }
    for (auto k = static_cast<int64_t>(20 * stddev); k > 0; --k) total_ += 2 * weight(k);
    total_ += 1;
  }
  Real weight(int64_t k) const { return exp(-Real(k) * Real(k) / (2 * Real(stddev_) * Real(stddev_))); }
  Real probability(int64_t k) const { return weight(k) / total_; }

 private:
  double stddev_;
  Real total_ = 0;
};

// A row of the table, as the header describes it.
struct Row {
  size_t alias;
  Uint128 border;
};
Row row_of(const DiscreteGaussian& law, size_t r) {
  const int bits = std::countr_zero(law.rows());
  const Uint128 row = law.row(r);
  return {static_cast<size_t>(row >> (128 - bits)), row << bits >> bits};
}

// What the header says that 128 bits draw from the table.
int64_t value_of(const DiscreteGaussian& law, Uint128 draw) {
  const int bits = std::countr_zero(law.rows());
  const size_t r = static_cast<size_t>(draw >> (128 - bits));
  const Row row = row_of(law, r);
  const auto x = static_cast<int64_t>((draw << bits >> bits) < row.border ? r : row.alias);
  return draw % 2 == 1 ? -x : x;
}

// P(|x| = k) of the table in units of 2^-127, for k from 0 on.
std::vector<Uint128> masses_of(const DiscreteGaussian& law) {
  const size_t rows = law.rows();
  const Uint128 length = (Uint128{1} << 127) / rows;
  std::vector<Uint128> masses(rows);
  for (size_t r = 0; r < rows; ++r) {
    const Row row = row_of(law, r);
    masses[r] += row.border / 2;
    masses[row.alias] += length - row.border / 2;
  }
  return masses;
}

Real probability_of(const std::vector<Uint128>& masses, int64_t k) {
  return k < static_cast<int64_t>(masses.size()) ? ldexp(to_real(masses[static_cast<size_t>(k)]), -127)
                                                 : Real(0);
}

TEST(DiscreteGaussian, TableHoldsEachProbabilityToARelativeErrorOf2ToTheMinus40DownTo2ToTheMinus87) {
  for (const double stddev : {1.0, 4.0, 24.5, 34.0, 1000.0, 2400.0}) {
    const DiscreteGaussian law(stddev);
    const std::vector<Uint128> masses = masses_of(law);
    const Law exact(law.base_stddev());
    int64_t checked = 0;
    for (int64_t k = 0; k <= static_cast<int64_t>(masses.size()); ++k) {
      const Real p = exact.probability(k) * (k == 0 ? 1 : 2), q = probability_of(masses, k);
      // To the nearest; the middle takes what all others were rounded by.
      ASSERT_LE(abs(Real(q - p)), ldexp(Real(k == 0 ? masses.size() : 1), -127)) << stddev << ", " << k;
      if (p < ldexp(Real(1), -87)) continue;
      ASSERT_LE(abs(Real(q / p - 1)), ldexp(Real(1), -40)) << stddev << ", " << k;
      ++checked;
    }
    EXPECT_GE(checked, static_cast<int64_t>(10 * law.base_stddev())) << stddev;
  }
}

// What one base draw adds to kChiSquare: sum of (p - q)^2 / q over all values, those without a place in the
// table included (p = 0). 4 levels of 2^-119.5 are 2^-117.5, so their root is the 2^-58.75 that kChiSquare
// has for it.
TEST(DiscreteGaussian, TableHasAChiSquareOfLessThan2ToTheMinus119AndAHalf) {
  for (const double stddev : {1.0, 4.0, 24.5, 100.0, 1230.0, 2400.0, 2401.0, 0x1p20, 0x1.8p33, 0x1p40}) {
    const DiscreteGaussian law(stddev);
    const std::vector<Uint128> masses = masses_of(law);
    const Law exact(law.base_stddev());
    Real chi_square = 0;
    for (int64_t k = 0; k <= static_cast<int64_t>(16 * law.base_stddev()); ++k) {
      const Real q = exact.probability(k) * (k == 0 ? 1 : 2);
      const Real difference = probability_of(masses, k) - q;
      chi_square += difference * difference / q;
    }
    EXPECT_LE(chi_square, exp2(-119.5)) << stddev;
    EXPECT_LE(law.weights().size(), 4u) << stddev;
  }
}

TEST(DiscreteGaussian, TableIsAPowerOfTwoRowsInWhichTheSignTakesNoPart) {
  for (const double stddev : {1.0, 24.5, 38.0, 2399.9, 1e6}) {
    const DiscreteGaussian law(stddev);
    EXPECT_TRUE(std::has_single_bit(law.rows()));
    EXPECT_LE(law.rows() * sizeof(Uint128), size_t{512} << 10);
    for (size_t r = 0; r < law.rows(); ++r) EXPECT_EQ(row_of(law, r).border % 2, 0u);
  }
}

TEST(DiscreteGaussian, StandardDeviationIsThatOfTheLevelsAndAtLeastWhatIsAskedFor) {
  std::vector<double> stddevs;
  for (double stddev = 1; stddev < 0x1p40; stddev *= 1.09) stddevs.push_back(stddev);
  // Where one more level begins, its base is the smallest.
  for (const double factor : {1.0, 1567.0, 1568.0})
    for (int levels = 1; levels <= 3; ++levels) {
      double variance = 1;
      for (int l = 1; l < levels; ++l) variance = 1 + factor * factor * variance;
      stddevs.push_back(2400 * std::sqrt(variance) * (1 + 1e-12));
    }
  for (const double stddev : stddevs) {
    const DiscreteGaussian law(stddev);
    EXPECT_GE(law.stddev(), stddev);
    EXPECT_LE(law.stddev(), stddev * (1 + 0x1p-39));
    long double variance = 0;
    int64_t before = 0;
    for (const int64_t weight : law.weights()) {
      variance += static_cast<long double>(weight) * static_cast<long double>(weight);
      if (before > 0) {
        EXPECT_EQ(weight % before, 0);
        EXPECT_LE(weight / before, 1568);
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
  for (const double stddev : {2400.1, 3394.0, 50000.0, 3e6}) {
    const DiscreteGaussian law(stddev);
    ASSERT_EQ(law.weights().size(), 2u) << stddev;
    const Law exact(law.stddev());
    const std::vector<Uint128> masses = masses_of(law);
    const int64_t weight = law.weights()[1], largest = static_cast<int64_t>(masses.size()) - 1;
    std::vector<Real> half;
    for (int64_t k = 0; k <= largest; ++k) half.push_back(probability_of(masses, k) * (k == 0 ? 1.0 : 0.5));
    const auto limit = static_cast<int64_t>(8 * stddev);
    for (int64_t y = 0; y <= limit; y += 1 + limit / 30) {
      Real sum = 0;
      for (int64_t x = -largest; x <= largest; ++x) {
        const int64_t rest = std::abs(y - weight * x);
        if (rest <= largest) sum += half[static_cast<size_t>(std::abs(x))] * half[static_cast<size_t>(rest)];
      }
      ASSERT_LE(abs(Real(sum / exact.probability(y) - 1)), ldexp(Real(1), -36)) << stddev << ", " << y;
    }
  }
}

TEST(DiscreteGaussian, SamplesOfEveryInstructionSetAreTheDocumentedFunctionOfTheWords) {
  for (const double stddev : {3.0, 1000.0, 0x1p20, 0x1p24, 0x1p40}) {
    const DiscreteGaussian law(stddev);
    const size_t levels = law.weights().size();
    for (const uint64_t first : {uint64_t{0}, (uint64_t{1} << 50) + 5}) {
      std::vector<int64_t> expected(300);
      std::vector<uint32_t> words(expected.size() * 4 * levels);
      fill_words(key_of(1), 7, first * 4 * levels, words);
      for (size_t i = 0; i < expected.size(); ++i)
        for (size_t l = 0; l < levels; ++l) {
          Uint128 draw = 0;
          for (size_t j = 4; j-- > 0;) draw = draw << 32 | words[4 * (i * levels + l) + j];
          expected[i] += law.weights()[l] * value_of(law, draw);
        }
      for (const CpuPath path : available_cpu_paths()) {
        set_cpu_path(path);
        EXPECT_EQ(samples(law, 7, first, expected.size()), expected) << stddev << ", " << to_string(path);
      }
    }
  }
  set_cpu_path(available_cpu_paths().back());
}

// Where the upper words of a draw and its row's border agree the lower ones decide: chance finds none of
// these.
TEST(DiscreteGaussian, DrawsBesideABorderAreThoseOfEveryInstructionSet) {
  const DiscreteGaussian law(1000);
  const int bits = std::countr_zero(law.rows());
  std::vector<uint64_t> table;
  std::vector<uint32_t> words;
  std::vector<int64_t> expected;
  for (size_t r = 0; r < law.rows(); ++r) {
    table.push_back(static_cast<uint64_t>(law.row(r)));
    table.push_back(static_cast<uint64_t>(law.row(r) >> 64));
    const Uint128 border = row_of(law, r).border, row = Uint128{r} << (128 - bits);
    for (const int bit : {0, 1, 31, 32, 62, 63, 64, 65})
      for (const Uint128 place :
           {border, border - 1, border ^ Uint128{1} << bit, border + (Uint128{1} << bit)}) {
        const Uint128 draw = row | (place << bits >> bits);
        for (int w = 0; w < 4; ++w) words.push_back(static_cast<uint32_t>(draw >> 32 * w));
        expected.push_back(value_of(law, draw));
      }
  }
  for (const CpuPath path : available_cpu_paths()) {
    set_cpu_path(path);
    std::vector<int64_t> drawn(expected.size());
    random_internal::active_backend().discrete_draws(table.data(), bits, words.data(), drawn.size(),
                                                     drawn.data());
    EXPECT_EQ(drawn, expected) << to_string(path);
  }
  set_cpu_path(available_cpu_paths().back());
}

TEST(DiscreteGaussian, SamplesDependOnTheirIndexAndNotOnTheRangeAskedFor) {
  const DiscreteGaussian law(5000);
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
