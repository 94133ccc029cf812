#include "kernels/gram_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <tuple>

#include "kernels/compute_type.h"
#include "src/base/error.h"
#include "tests/kernels/gram_properties.h"
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
  std::vector<GramNorm> units;
  std::vector<double> slots;
  const GramNorm& norm() const { return units.front(); }
};

Measured measure(const GradientRecords& records, int64_t example = 0, const GramUnits& units = {}) {
  const int64_t tokens = records.length(example), pairs = gram_slots(tokens), columns = gram_strips(tokens);
  Measured result;
  result.slots.resize(units.groups * pairs, std::nan(""));
  std::vector<GramTokens> strips(units.groups * columns);
  with_compute_type(records.linears[0].input.scalar_type(), [&]<typename T>() {
#pragma omp parallel for
    for (int64_t strip = 0; strip < columns; ++strip)
      gram_strip<T>(records, 0, example, strip, units, result.slots, strips);
    for (int64_t u = 0; u < units.groups; ++u)
      result.units.push_back(gram_norm<T>(records.linears[0], tokens, units,
                                          std::span(result.slots).subspan(u * pairs, pairs),
                                          std::span(strips).subspan(u * columns, columns)));
  });
  return result;
}

// |x^T g|^2 (and |1^T g|^2) in double from the operands as they are stored.
double true_square(const at::Tensor& x, const at::Tensor& g, bool bias = false) {
  const at::Tensor wide = g.to(at::kDouble);
  const double square = at::mm(x.to(at::kDouble).t(), wide).square().sum().item<double>();
  return bias ? square + wide.sum(0).square().sum().item<double>() : square;
}

// On both sides of every tile, and depths on both sides of a chunk.
const std::vector<int64_t> kTokens = {1, 2, 63, 64, 65, 127, 129, 257};
const std::vector<std::pair<int64_t, int64_t>> kShapes = {{1, 1}, {37, 53}, {128, 129}, {300, 17}};

TEST(GramNorm, IsTheNormOfEveryUnitInEveryType) {
  for (const int64_t tokens : kTokens)
    for (const auto& [d, width] : kShapes)
      for (const GramUnits units : {GramUnits{1, false}, {1, true}, {3, false}, {4, true}})
        for (const auto& [type, tolerance] :
             {std::pair{at::kDouble, 1e-12}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-4}}) {
          const at::Tensor x = random_matrix(tokens, d, 1).to(type);
          const at::Tensor g = random_matrix(tokens, units.groups * width, 2).to(type);
          const Measured measured = measure(records_of(x, g, {0, tokens}), 0, units);
          for (int64_t u = 0; u < units.groups; ++u) {
            const double expected = true_square(x, g.narrow(1, u * width, width), units.bias);
            EXPECT_NEAR(std::sqrt(measured.units[u].squared / expected), 1, tolerance)
                << tokens << " tokens, " << d << " x " << width << ", block " << u << " of " << units.groups
                << (units.bias ? " with bias, " : ", ") << c10::toString(type);
          }
        }
}

TEST(GramNorm, OfAllUnitsTogetherIsThatOfTheMatrix) {
  const at::Tensor x = random_matrix(130, 40, 1), g = random_matrix(130, 96, 2);
  const GradientRecords records = records_of(x, g, {0, 130});
  for (const bool bias : {false, true}) {
    double sum = 0;
    for (const GramNorm& unit : measure(records, 0, {12, bias}).units) sum += unit.squared;
    EXPECT_NEAR(sum / measure(records, 0, {1, bias}).norm().squared, 1, 1e-12);
  }
  std::vector<double> slots(7 * gram_slots(130));
  std::vector<GramTokens> strips(7 * gram_strips(130));
  EXPECT_THROW(gram_strip<double>(records, 0, 0, 0, {7, false}, slots, strips), InternalError);
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
            const GramNorm norm = measure(records_of(x, g, {0, tokens})).norm();
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

// The properties of every backend, by each compute type. The bound on the error of a sum in f32 grows with
// its terms, so it certifies fewer random tokens than that of tensor cores.
void expect(void (*property)(made::Failures&, const made::GramBackend&)) {
  for (const auto& [type, certified_tokens] :
       {std::pair<at::ScalarType, int64_t>{at::kDouble, 300}, {at::kFloat, 129}, {at::kBFloat16, 129}}) {
    const auto tensor = [type = type](const made::Matrix& m) {
      at::Tensor rows = at::empty({m.rows, m.columns}, at::kDouble);
      for (int64_t i = 0; i < m.rows * m.columns; ++i)
        rows.data_ptr<double>()[i] = m.at(i / m.columns, i % m.columns);
      return rows.to(type);
    };
    const auto backend = [&](const std::vector<made::Layer>& layers, const std::vector<int64_t>& offsets) {
      std::vector<made::UnitNorm> norms;
      for (const made::Layer& layer : layers) {
        const GradientRecords records = records_of(tensor(layer.x), tensor(layer.g), offsets);
        std::vector<Measured> examples;
        for (int64_t b = 0; b < records.examples(); ++b)
          examples.push_back(measure(records, b, {layer.groups, layer.bias}));
        for (int64_t u = 0; u < layer.groups; ++u)
          for (const Measured& example : examples)
            norms.push_back(
                {example.units[u].squared, example.units[u].error, is_certified(example.units[u])});
      }
      return norms;
    };
    made::Failures failures;
    property(failures, {c10::toString(type), backend, certified_tokens});
    EXPECT_EQ(failures.text(), "");
  }
}

TEST(GramNorm, IsWithinItsBoundForEveryUnitOfARaggedBatch) { expect(made::norms_are_within_their_bounds); }

TEST(GramNorm, OfOutliersAndTinyNumbersIsWithinItsBound) {
  expect(made::outliers_and_tiny_numbers_stay_within_their_bounds);
}

TEST(GramNorm, HasTheSameBitsWhereverTheExampleLiesAndForAnyThreadCount) {
  const int threads = omp_get_max_threads();
  for (const int count : {1, 3}) {
    omp_set_num_threads(count);
    expect(made::an_example_has_its_bits_in_any_batch);
  }
  omp_set_num_threads(threads);
  const at::Tensor x = random_matrix(300, 37, 1).to(at::kFloat), g = random_matrix(300, 53, 2).to(at::kFloat);
  const GradientRecords records = records_of(x, g, {0, 300});
  const std::vector<double> expected = measure(records).slots;
  for (const int count : {1, 2, 7}) {
    omp_set_num_threads(count);
    EXPECT_EQ(measure(records).slots, expected) << count << " threads";
  }
  omp_set_num_threads(threads);
}

TEST(GramNorm, ThatIsNotFiniteStaysWithItsExample) {
  expect(made::what_is_not_finite_stays_with_its_example);
}

}  // namespace
}  // namespace dpfa::kernels
