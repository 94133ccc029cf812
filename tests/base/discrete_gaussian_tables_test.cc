// The tables of discrete_gaussian.h beside the law, in 400 bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "src/base/random/discrete_gaussian.h"
#include "tests/base/alias_table.h"

namespace dpfa {
namespace {

using testing::Law;
using testing::masses_of;
using testing::probability_of;
using testing::Real;
using testing::Row;
using testing::row_of;

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

// docs/dithered_rounding.md, 6: the chi-square of draws that share the lower bits of their places.
struct SharedBits {
  Real misplaced = 0;   // c: sum over x of (p - q)^2 / q
  Real correlated = 0;  // V: sum over x of the variance of f_x / q, f_x the probability of x given the bits
  Real farthest = 0;    // K: at least the sum over x of (f_x - q)^2 / q, whatever the bits

  Real chi_square(double draws) const {
    const Real mean = correlated + misplaced;
    return draws * misplaced + draws * draws / 2 * mean * mean * exp(draws * farthest);
  }
};

// A row whose border ends in the shared bits `lower` x 2^shared: it gives `own` where they are below that.
struct SharedRow {
  size_t own, alias;
  Real lower;
};

// unit: the probability of one row and one place above the shared bits. f_x - p_x is the sum over the rows of
// x of at most unit ([bits < lower] - lower).
SharedBits shared_bits_of(const std::vector<SharedRow>& rows, const Real& unit, const std::vector<Real>& p,
                          const std::vector<Real>& q) {
  std::vector<Real> deviation(q.size(), 0), swing(q.size(), 0);
  for (const SharedRow& row : rows) {
    const Real other = 1 - row.lower;
    if (row.lower == 0 || row.alias == row.own) continue;  // the bits decide nothing
    for (const size_t x : {row.own, row.alias}) {
      deviation[x] += unit * sqrt(Real(row.lower * other));
      swing[x] += unit * std::max(row.lower, other);
    }
  }
  SharedBits result;
  for (size_t x = 0; x < q.size(); ++x) {
    const Real error = abs(Real(p[x] - q[x])), far = error + swing[x];
    result.misplaced += error * error / q[x];
    result.correlated += deviation[x] * deviation[x] / q[x];
    result.farthest += far * far / q[x];
  }
  return result;
}

SharedBits shared_bits_of(const DiscreteGaussian& law) {
  const std::vector<Uint128> masses = masses_of(law);
  const Law exact(law.base_stddev());
  constexpr uint64_t kShared = (uint64_t{1} << 48) - 1;
  std::vector<SharedRow> rows;
  for (size_t r = 0; r < law.rows(); ++r)
    rows.push_back(
        {r, row_of(law, r).alias, ldexp(Real(static_cast<uint64_t>(row_of(law, r).border) & kShared), -48)});
  std::vector<Real> p, q;
  for (int64_t k = 0;
       k <= std::max(static_cast<int64_t>(16 * law.base_stddev()), static_cast<int64_t>(law.rows())); ++k) {
    p.push_back(probability_of(masses, k));
    q.push_back(exact.probability(k) * (k == 0 ? 1 : 2));
  }
  return shared_bits_of(rows, ldexp(Real(1), -79), p, q);
}

TEST(DiscreteGaussian, SamplesThatShareBitsHaveTheChiSquareOfTheHeader) {
  for (const double stddev : {1.0, 4.0, 24.5, 100.0, 1230.0, 2400.0, 2401.0, 0x1p20, 3.76e6, 3.77e6, 5.89e9,
                              0x1.8p33, DiscreteGaussian::kLargest}) {
    const DiscreteGaussian law(stddev);
    const auto levels = static_cast<double>(law.weights().size());
    EXPECT_LE(levels, 4) << stddev;
    const SharedBits bits = shared_bits_of(law);
    EXPECT_LE(bits.misplaced, exp2(-119.5)) << stddev;
    for (const double samples : {1.0, 2.0, 33.0, 64.0}) {
      // The errors of draws and of levels, 2^-62 for each sample, add up in the norm of L2(Q).
      const Real norm = sqrt(bits.chi_square(samples * levels)) + sqrt(samples) * std::exp2(-61.99);
      EXPECT_LE(norm * norm, samples * DiscreteGaussian::kChiSquare)
          << stddev << ", " << samples << ": 2^" << log2(Real(norm * norm / samples));
    }
  }
}

// The bound beside the sum over all outcomes, where places are short: 4 rows, 6 bits of a draw's own, 4
// shared.
TEST(DiscreteGaussian, ChiSquareOfDrawsThatShareBitsIsBelowItsBound) {
  constexpr size_t kRows = 4, kHighs = 64, kLows = 16;
  constexpr std::array<size_t, kRows> kBorders = {1024, 301, 45, 3}, kAliases = {0, 0, 1, 0};
  constexpr std::array<double, kRows> kErrors = {1e-4, -6e-5, -3e-5, -1e-5};  // of q to p
  std::array<std::array<double, kRows>, kLows> given = {};                    // f
  std::vector<Real> p(kRows), q(kRows);
  std::vector<SharedRow> rows;
  for (size_t row = 0; row < kRows; ++row) {
    rows.push_back({row, kAliases[row], Real(kBorders[row] % kLows) / kLows});
    for (size_t high = 0; high < kHighs; ++high)
      for (size_t low = 0; low < kLows; ++low) {
        const size_t x = high * kLows + low < kBorders[row] ? row : kAliases[row];
        given[low][x] += 1.0 / (kRows * kHighs);
        p[x] += 1.0 / (kRows * kHighs * kLows);
      }
  }
  for (size_t x = 0; x < kRows; ++x) q[x] = p[x] + kErrors[x];
  const SharedBits bits = shared_bits_of(rows, Real(1.0 / (kRows * kHighs)), p, q);
  for (const size_t draws : {1, 2, 3, 5}) {
    Real chi_square = 0, independent = 0;
    for (size_t outcome = 0; outcome < size_t{1} << 2 * draws; ++outcome) {
      Real drawn = 0, alone = 1, ideal = 1;
      for (size_t low = 0; low < kLows; ++low) {
        Real joint = 1.0 / kLows;
        for (size_t d = 0; d < draws; ++d) joint *= given[low][outcome >> 2 * d & 3];
        drawn += joint;
      }
      for (size_t d = 0; d < draws; ++d) {
        alone *= p[outcome >> 2 * d & 3];
        ideal *= q[outcome >> 2 * d & 3];
      }
      chi_square += (drawn - ideal) * (drawn - ideal) / ideal;
      independent += (alone - ideal) * (alone - ideal) / ideal;
    }
    EXPECT_LE(chi_square, bits.chi_square(static_cast<double>(draws)) * (1 + 1e-9)) << draws;
    if (draws > 1) {
      EXPECT_GE(8 * chi_square, bits.chi_square(static_cast<double>(draws)))
          << draws << ": the bound is idle";
      EXPECT_GT(chi_square, 2 * independent) << draws << ": the shared bits count here";
    }
  }
}

TEST(DiscreteGaussian, TableIsAPowerOfTwoRowsInWhichTheSignTakesNoPart) {
  for (const double stddev : {1.0, 24.5, 38.0, 2399.9, 1e6}) {
    const DiscreteGaussian law(stddev);
    EXPECT_TRUE(std::has_single_bit(law.rows()));
    EXPECT_LE(law.rows() * sizeof(Uint128), size_t{512} << 10);
    for (size_t r = 0; r < law.rows(); ++r) EXPECT_EQ(law.table()[2 * r + 1] % 2, 0u);
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

}  // namespace
}  // namespace dpfa
