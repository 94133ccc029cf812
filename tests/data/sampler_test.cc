// Statistical tests of the Poisson draw: the distribution that the accountant assumes, and nothing else.
//
// Keys are fixed, so a passing test passes for ever. Each statistic is compared with its exact mean at 5
// standard deviations: with a fresh key a correct sampler would fail one such comparison with probability
// below 1e-6 (normal approximation), and the whole file, about 60 comparisons, below 1e-4.
#include "src/data/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include <gtest/gtest.h>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"

namespace dpfa::data {
namespace {

constexpr double kDeviations = 5;

StreamKey key_of(uint64_t seed, uint64_t index = 0) {
  return RootKey::from_insecure_seed(seed).stream(Purpose::kSampling, index);
}

// The draws of a run: `world` ranks with a secret key each, as in production.
class World {
 public:
  World(uint64_t seed, int world, double sample_rate) {
    for (int rank = 0; rank < world; ++rank) {
      ranks_.emplace_back(key_of(seed, static_cast<uint64_t>(rank)), sample_rate, rank, world);
    }
  }
  // Not sorted, and with repetitions where two ranks drew one record.
  std::vector<int64_t> draw(int64_t step, int64_t records) const {
    std::vector<int64_t> all;
    for (const PoissonSampler& rank : ranks_) {
      const std::vector<int64_t> drawn = rank.draw(step, records);
      all.insert(all.end(), drawn.begin(), drawn.end());
    }
    return all;
  }

 private:
  std::vector<PoissonSampler> ranks_;
};

void expect_within(double value, double mean, double deviation, const std::string& what) {
  EXPECT_LT(std::abs(value - mean), kDeviations * deviation)
      << what << " is " << value << ", expected " << mean << " with standard deviation " << deviation;
}

struct Shape {
  int world;
  double sample_rate;
};
constexpr std::array<Shape, 4> kShapes{{{1, 0.05}, {2, 0.05}, {5, 0.3}, {2, 0.004}}};

TEST(PoissonSampler, InclusionCountsAreBinomialWithTheAccountedRate) {
  constexpr int64_t kRecords = 2000, kSteps = 2000;
  for (const auto& [world, q] : kShapes) {
    const World ranks(1, world, q);
    std::vector<int64_t> counts(kRecords);
    for (int64_t step = 0; step < kSteps; ++step) {
      for (const int64_t record : ranks.draw(step, kRecords)) ++counts[static_cast<size_t>(record)];
    }
    const double mean = kSteps * q, variance = kSteps * q * (1 - q);
    // The total: Bin(N T, q).
    expect_within(static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0})),
                  kRecords * mean, std::sqrt(kRecords * variance), "the total of the inclusion counts");
    // Pearson's dispersion statistic over the records: a sum of N independent terms of mean 1, whose variance
    // is 2 + (1 - 6 q (1 - q)) / variance (the excess kurtosis of Bin(T, q)).
    double dispersion = 0;
    for (const int64_t count : counts)
      dispersion += std::pow(static_cast<double>(count) - mean, 2) / variance;
    expect_within(dispersion, kRecords, std::sqrt(kRecords * (2 + (1 - 6 * q * (1 - q)) / variance)),
                  "the dispersion of the inclusion counts");
  }
}

TEST(PoissonSampler, InclusionCountsFollowTheBinomialHistogram) {
  // Chi-square of the counts of 20000 records after 40 steps against Bin(40, 0.05): cells 0 to 7 and "8 or
  // more".
  constexpr int64_t kRecords = 20000, kSteps = 40;
  constexpr double kRate = 0.05;
  constexpr size_t kCells = 9;
  const World ranks(2, 2, kRate);
  std::vector<size_t> counts(kRecords);
  for (int64_t step = 0; step < kSteps; ++step) {
    for (const int64_t record : ranks.draw(step, kRecords)) ++counts[static_cast<size_t>(record)];
  }
  std::array<double, kCells> observed{}, expected{};
  for (const size_t count : counts) observed[std::min(count, kCells - 1)] += 1;
  double rest = kRecords;
  for (size_t k = 0; k + 1 < kCells; ++k) {
    const double log_ways =
        std::lgamma(kSteps + 1) - std::lgamma(k + 1.0) - std::lgamma(kSteps - static_cast<double>(k) + 1);
    expected[k] = kRecords * std::exp(log_ways + static_cast<double>(k) * std::log(kRate) +
                                      (kSteps - static_cast<double>(k)) * std::log1p(-kRate));
    rest -= expected[k];
  }
  expected[kCells - 1] = rest;
  double chi_square = 0;
  for (size_t k = 0; k < kCells; ++k) {
    ASSERT_GT(expected[k], 5) << k;
    chi_square += std::pow(observed[k] - expected[k], 2) / expected[k];
  }
  EXPECT_LT(chi_square, 42.7);  // exceeded with probability 1e-6 (8 degrees of freedom)
}

TEST(PoissonSampler, TheBatchSizeVariesAsPoissonSamplingDemands) {
  constexpr int64_t kRecords = 1000, kSteps = 4000;
  for (const auto& [world, q] : kShapes) {
    const World ranks(3, world, q);
    double sum = 0, squares = 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      const double deviation = static_cast<double>(ranks.draw(step, kRecords).size()) - kRecords * q;
      sum += deviation;
      squares += deviation * deviation;
    }
    const double variance = kRecords * q * (1 - q);
    expect_within(sum / kSteps, 0, std::sqrt(variance / kSteps), "the mean batch size beyond N q");
    // The fourth central moment of Bin(N, q) is 3 variance^2 + variance (1 - 6 q (1 - q)).
    expect_within(squares / kSteps, variance,
                  std::sqrt((2 * variance * variance + variance * (1 - 6 * q * (1 - q))) / kSteps),
                  "the variance of the batch size");
  }
}

// How often positions i and i + lag are both set, summed over all i of all rows, against independence.
void expect_pairs_independent(const std::vector<std::vector<char>>& rows, size_t lag, double q,
                              const std::string& what) {
  double both = 0, pairs = 0;
  for (const std::vector<char>& row : rows) {
    for (size_t i = 0; i + lag < row.size(); ++i) both += row[i] & row[i + lag];
    pairs += static_cast<double>(row.size() - lag);
  }
  // Products that share a position are correlated: the second term (an upper bound, rows have ends).
  const double variance = pairs * (q * q * (1 - q * q) + 2 * (q * q * q - q * q * q * q));
  expect_within(both, pairs * q * q, std::sqrt(variance), what + " at distance " + std::to_string(lag));
}

TEST(PoissonSampler, PairsOfRecordsAndOfStepsAreIndependent) {
  constexpr size_t kRecords = 1000, kSteps = 1000;
  constexpr double kRate = 0.1;
  for (const int world : {1, 2, 3}) {
    const World ranks(4, world, kRate);
    std::vector<std::vector<char>> by_step(kSteps, std::vector<char>(kRecords));
    std::vector<std::vector<char>> by_record(kRecords, std::vector<char>(kSteps));
    for (size_t step = 0; step < kSteps; ++step) {
      for (const int64_t record : ranks.draw(static_cast<int64_t>(step), kRecords)) {
        by_step[step][static_cast<size_t>(record)] = 1;
        by_record[static_cast<size_t>(record)][step] = 1;
      }
    }
    for (const size_t lag : {1, 2, 3, 8, 16})
      expect_pairs_independent(by_step, lag, kRate, "records of one step");
    for (const size_t lag : {1, 2}) expect_pairs_independent(by_record, lag, kRate, "steps of one record");
  }
}

TEST(PoissonSampler, EachRecordIsOnExactlyOneRank) {
  for (const int world : {1, 2, 3, 7}) {
    // With rate 1 every record is drawn once; with a smaller rate none is drawn by a rank that does not own
    // it.
    std::vector<int64_t> all = World(5, world, 1).draw(0, 100);
    std::sort(all.begin(), all.end());
    std::vector<int64_t> expected(100);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(all, expected) << world << " ranks";
    for (int rank = 0; rank < world; ++rank) {
      const PoissonSampler sampler(key_of(5), 0.5, rank, world);
      for (const int64_t record : sampler.draw(3, 5000)) EXPECT_EQ(record % world, rank);
    }
  }
}

TEST(PoissonSampler, UnderOneKeyTheUnionOfTheRanksDoesNotDependOnTheirNumber) {
  // With 400 ranks 307 records leave some ranks without any.
  for (const int64_t records : {307, 10007}) {
    const std::vector<int64_t> alone = PoissonSampler(key_of(6), 0.2, 0, 1).draw(9, records);
    ASSERT_GT(alone.size(), 30u);
    for (const int world : {2, 3, 8, 400}) {
      std::vector<int64_t> joined;
      for (int rank = 0; rank < world; ++rank) {
        const auto drawn = PoissonSampler(key_of(6), 0.2, rank, world).draw(9, records);
        EXPECT_TRUE(std::is_sorted(drawn.begin(), drawn.end()));
        joined.insert(joined.end(), drawn.begin(), drawn.end());
      }
      std::sort(joined.begin(), joined.end());
      EXPECT_EQ(joined, alone) << world << " ranks";
    }
  }
}

TEST(PoissonSampler, TheDecisionIsTheRecordsWordOfTheStreamAgainstTheRate) {
  const StreamKey key = key_of(7);
  constexpr double kRate = 0.37;
  constexpr int64_t kRecords = 5000, kStep = (int64_t{3} << 32) + 5;
  std::vector<int64_t> expected;
  for (int64_t i = 0; i < kRecords; ++i) {
    // RFC 8439 blocks of 8 words of 64 bits; the nonce is (high half of the block number, step).
    const auto block = chacha20_block(key.words(), static_cast<uint32_t>(i / 8), {0, 5, 3});
    const uint64_t word = static_cast<uint64_t>(block[2 * (i % 8) + 1]) << 32 | block[2 * (i % 8)];
    if (static_cast<long double>(word) < 0x1p64L * static_cast<long double>(kRate)) expected.push_back(i);
  }
  EXPECT_EQ(PoissonSampler(key, kRate, 0, 1).draw(kStep, kRecords), expected);
}

TEST(PoissonSampler, ARecordMoreChangesNoDecisionOnTheOthers) {
  const PoissonSampler sampler(key_of(8), 0.3, 1, 3);
  std::vector<int64_t> larger = sampler.draw(2, 6001);
  for (const int64_t records : {6000, 4096, 2049, 2048, 5, 1}) {
    larger.erase(std::lower_bound(larger.begin(), larger.end(), records), larger.end());
    EXPECT_EQ(sampler.draw(2, records), larger) << records;
  }
}

TEST(PoissonSampler, OtherStepsAndOtherKeysGiveOtherDraws) {
  const PoissonSampler sampler(key_of(9), 0.5, 0, 1), other(key_of(9, 1), 0.5, 0, 1);
  EXPECT_EQ(sampler.draw(4, 1000), sampler.draw(4, 1000));
  EXPECT_NE(sampler.draw(4, 1000), sampler.draw(5, 1000));
  EXPECT_NE(sampler.draw(4, 1000), sampler.draw(4 + (int64_t{1} << 32), 1000));
  EXPECT_NE(sampler.draw(4, 1000), other.draw(4, 1000));
}

TEST(PoissonSampler, EmptyDrawsAreValid) {
  EXPECT_TRUE(PoissonSampler(key_of(10), 0.5, 0, 1).draw(0, 0).empty());
  EXPECT_TRUE(PoissonSampler(key_of(10), 1, 0, 1).draw(0, 0).empty());
  EXPECT_TRUE(PoissonSampler(key_of(10), 1, 3, 4).draw(0, 3).empty());  // more ranks than records
  EXPECT_EQ(PoissonSampler(key_of(10), 1, 2, 4).draw(0, 3), std::vector<int64_t>{2});
  EXPECT_TRUE(PoissonSampler(key_of(10), 1e-300, 0, 1).draw(0, 100000).empty());
  const PoissonSampler rare(key_of(10), 0.01, 0, 1);
  int empty = 0;
  for (int64_t step = 0; step < 100; ++step) empty += rare.draw(step, 10).empty() ? 1 : 0;
  EXPECT_GT(empty, 50);  // expected 90
  EXPECT_LT(empty, 100);
}

TEST(PoissonSampler, RatesOutsideTheUnitIntervalAreRefused) {
  for (const double rate : {0.0, -0.1, 1.0000001, std::nan(""), HUGE_VAL}) {
    EXPECT_THROW(PoissonSampler(key_of(11), rate, 0, 1), ConfigError) << rate;
  }
}

// P[Bin(n, q) > most_drawn] in long double, term by term.
TEST(PoissonSampler, ADrawHardlyEverExceedsWhatAStepHasRoomFor) {
  for (const auto& [n, q] : std::vector<std::pair<int64_t, double>>{{10, 0.5},
                                                                    {700, 0.03},
                                                                    {2000, 0.032},
                                                                    {100000, 0.001},
                                                                    {100000, 0.3},
                                                                    {50, 1.0},
                                                                    {1000000, 1e-7}}) {
    for (const int ranks : {1, 8}) {
      const int64_t most = most_drawn(q, n, ranks);
      ASSERT_LE(most, n);
      long double tail = 0;
      for (int64_t k = most + 1; k <= n && q < 1; ++k)
        tail += std::exp(
            std::lgamma(static_cast<long double>(n + 1)) - std::lgamma(static_cast<long double>(k + 1)) -
            std::lgamma(static_cast<long double>(n - k + 1)) + k * std::log(static_cast<long double>(q)) +
            (n - k) * std::log1p(-static_cast<long double>(q)));
      EXPECT_LE(tail, std::ldexp(1.0L, -60) / ranks) << n << " " << q << ", " << ranks << " ranks";
      EXPECT_LE(most, q * static_cast<double>(n) + 12 * std::sqrt(q * static_cast<double>(n)) + 60);
    }
  }
  EXPECT_EQ(most_drawn(1, 50, 1), 50);
  EXPECT_EQ(most_drawn(0.5, 0, 1), 0);
}

// At rate 1 every record is drawn: a rank's share of one record more than declared fits, and no room is left.
TEST(StepRoom, HoldsARanksShareOfOneRecordMoreThanDeclared) {
  for (const int world : {1, 2, 3, 7})
    for (const int64_t declared : {1, 39, 40, 41}) {
      const StepRoom room = room_of(1, declared, world, /*each_has_its_own=*/false);
      EXPECT_EQ(room.records, declared + 1);
      EXPECT_EQ(room_of(1, declared, world, /*each_has_its_own=*/true).passes, declared + 1);
      size_t most = 0;
      for (int rank = 0; rank < world; ++rank)
        most = std::max(most, PoissonSampler(key_of(1), 1, rank, world).draw(0, room.records).size());
      EXPECT_EQ(room.passes, static_cast<int64_t>(most)) << world << " ranks, " << declared << " declared";
    }
}

}  // namespace
}  // namespace dpfa::data
