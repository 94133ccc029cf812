#include "kernels/gram_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <random>
#include <tuple>

#include "kernels/compute_type.h"
#include "tests/kernels/random_matrix.h"

namespace dpfa::kernels {
namespace {

GradientRecords records_of(const at::Tensor& x, const at::Tensor& g, std::vector<int64_t> offsets) {
  GradientRecords records;
  records.offsets = std::move(offsets);
  records.linears.push_back({x, g, 0, false});
  return records;
}

struct Measured {
  GramNorm norm;
  std::vector<double> slots;
};

Measured measure(const GradientRecords& records, int64_t example = 0) {
  const int64_t tokens = records.length(example);
  Measured result;
  result.slots.resize(gram_slots(tokens), std::nan(""));
  std::vector<GramTokens> strips(gram_strips(tokens));
  with_compute_type(records.linears[0].input.scalar_type(), [&]<typename T>() {
    for (int64_t strip = 0; strip < gram_strips(tokens); ++strip)
      strips[strip] = gram_strip<T>(records, 0, example, strip, result.slots);
    result.norm = gram_norm<T>(records.linears[0], tokens, result.slots, strips);
  });
  return result;
}

// |x^T g|^2 in double from the operands as they are stored.
double true_square(const at::Tensor& x, const at::Tensor& g) {
  return at::mm(x.to(at::kDouble).t(), g.to(at::kDouble)).square().sum().item<double>();
}

// On both sides of every tile, and depths on both sides of a chunk.
const std::vector<int64_t> kTokens = {1, 2, 63, 64, 65, 127, 129, 257};
const std::vector<std::pair<int64_t, int64_t>> kShapes = {{1, 1}, {37, 53}, {128, 129}, {300, 17}};

TEST(GramNorm, IsTheNormOfTheGradientInEveryType) {
  for (const int64_t tokens : kTokens)
    for (const auto& [d, p] : kShapes)
      for (const auto& [type, tolerance] :
           {std::pair{at::kDouble, 1e-12}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-4}}) {
        const at::Tensor x = random_matrix(tokens, d, 1).to(type), g = random_matrix(tokens, p, 2).to(type);
        const double expected = std::sqrt(true_square(x, g));
        EXPECT_NEAR(std::sqrt(measure(records_of(x, g, {0, tokens})).norm.squared) / expected, 1, tolerance)
            << tokens << " tokens, " << d << " x " << p << ", " << c10::toString(type);
      }
}

// Pairs of tokens that cancel to a share `residue` of themselves.
at::Tensor cancelling(const at::Tensor& rows, double residue, double sign) {
  at::Tensor result = rows.clone();
  for (int64_t t = 1; t < rows.size(0); t += 2)
    result[t].copy_(result[t - 1] * sign * (1 + residue * random_matrix(1, rows.size(1), 5 + t)[0]));
  return result;
}

TEST(GramNorm, ErrorIsWithinItsBoundWhateverCancels) {
  for (const int64_t tokens : {2, 64, 130})
    for (const auto& [d, p] : kShapes)
      for (const double residue : {0.0, 1e-7, 1e-4, 0.1})
        for (const double scale : {1e-18, 1.0, 1e15})
          for (const auto type : {at::kFloat, at::kBFloat16}) {
            const at::Tensor x = cancelling(random_matrix(tokens, d, 3) * scale, residue, 1).to(type);
            const at::Tensor g = cancelling(random_matrix(tokens, p, 4), 0, -1).to(type);
            const GramNorm norm = measure(records_of(x, g, {0, tokens})).norm;
            EXPECT_LE(std::abs(norm.squared - true_square(x, g)), norm.error)
                << tokens << " tokens, " << d << " x " << p << ", residue " << residue << ", scale " << scale;
          }
}

TEST(GramNorm, SlotsAreThePairsOfTilesWithTheirWeights) {
  const int64_t tokens = 150;
  const at::Tensor x = random_matrix(tokens, 5, 1), g = random_matrix(tokens, 7, 2);
  const Measured measured = measure(records_of(x, g, {0, tokens}));
  ASSERT_EQ(measured.slots.size(), 6u);
  for (int64_t index = 0; index < 6; ++index) {
    const TilePair pair = tile_pair(index);
    const auto tile = [&](const at::Tensor& m, int64_t i) {
      return m.narrow(0, i * kGramTile, std::min(kGramTile, tokens - i * kGramTile));
    };
    const double sum = (at::mm(tile(x, pair.row), tile(x, pair.column).t()) *
                        at::mm(tile(g, pair.row), tile(g, pair.column).t()))
                           .sum()
                           .item<double>();
    EXPECT_NEAR(measured.slots[index], pair_weight(pair) * sum, 1e-9 * std::abs(sum)) << index;
  }
}

TEST(GramNorm, HasTheSameBitsWhereverTheExampleLiesAndForAnyThreadCount) {
  const int threads = omp_get_max_threads();
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const int64_t tokens : {1, 63, 130}) {
      const at::Tensor x = random_matrix(tokens, 37, 1).to(type), g = random_matrix(tokens, 53, 2).to(type);
      const Measured alone = measure(records_of(x, g, {0, tokens}));
      for (const int64_t before : {1, 7, 64})
        for (const int count : {1, 3}) {
          omp_set_num_threads(count);
          const auto among = [&](const at::Tensor& m) {
            const at::Tensor other = random_matrix(before + 2, m.size(1), 9).to(type);
            return at::cat({other.narrow(0, 0, before), m, other.narrow(0, before, 2)});
          };
          const Measured elsewhere =
              measure(records_of(among(x), among(g), {0, before, before + tokens, before + tokens + 2}), 1);
          EXPECT_EQ(elsewhere.slots, alone.slots) << tokens << " tokens behind " << before;
          EXPECT_EQ(elsewhere.norm.squared, alone.norm.squared);
          EXPECT_EQ(elsewhere.norm.error, alone.norm.error);
        }
    }
  omp_set_num_threads(threads);
}

TEST(GramNorm, ANonFiniteRowGivesANormThatIsNotFinite) {
  for (const double bad : std::initializer_list<double>{NAN, INFINITY, -INFINITY}) {
    at::Tensor g = random_matrix(70, 9, 2).to(at::kFloat);
    g[66][3] = bad;
    const GramNorm norm = measure(records_of(random_matrix(70, 8, 1).to(at::kFloat), g, {0, 70})).norm;
    EXPECT_FALSE(std::isfinite(norm.squared) && std::isfinite(norm.error)) << bad;
  }
}

}  // namespace
}  // namespace dpfa::kernels
