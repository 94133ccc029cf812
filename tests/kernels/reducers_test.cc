#include "kernels/reducers.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "tests/kernels/reducer_properties.h"

namespace dpfa::kernels {
namespace {

// Rows that differ everywhere, in the type asked for.
at::Tensor made(int64_t rows, int64_t columns, double phase, at::ScalarType type) {
  return at::arange(rows * columns, at::kDouble).mul(0.37).add(phase).sin().view({rows, columns}).to(type);
}

const std::vector<int64_t> kOffsets = {0, 3, 3, 70, 71};
constexpr int64_t kColumns = 300;  // more than one block

// A property of every backend, in each compute type.
void expect(void (*property)(made::Failures&, const made::ReducerBackend&)) {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto stat = type == at::kDouble ? at::kDouble : at::kFloat;
    const auto matrix = [&](const made::Matrix& m) {
      at::Tensor rows = at::empty({m.rows, m.columns}, at::kDouble);
      for (int64_t i = 0; i < m.rows * m.columns; ++i)
        rows.data_ptr<double>()[i] = m.at(i / m.columns, i % m.columns);
      return rows.to(type);
    };
    const auto numbers = [](const at::Tensor& t) {
      const at::Tensor wide = t.to(at::kDouble).contiguous();
      return std::vector<double>(wide.data_ptr<double>(), wide.data_ptr<double>() + wide.numel());
    };
    const auto reduce = [&](const made::NormalisedRows& rows, const std::vector<int64_t>& offsets) {
      const at::Tensor g = matrix(rows.g), x = matrix(rows.x);
      const at::Tensor mean = at::tensor(rows.mean).to(stat), rstd = at::tensor(rows.rstd).to(stat);
      const auto [gain, shift] = layer_norm_gradient(g, x, mean, rstd, offsets);
      return made::VectorGradients{numbers(bias_gradient(g, offsets)), numbers(gain), numbers(shift),
                                   numbers(rms_norm_gradient(g, x, rstd, offsets))};
    };
    made::Failures failures;
    property(failures, {c10::toString(type), type == at::kDouble ? 1e-12 : 0x1p-21, reduce});
    EXPECT_EQ(failures.text(), "");
  }
}

TEST(Reducers, AreTheSumsOverEachExamplesRows) { expect(made::vectors_are_the_sums_over_tokens); }

TEST(Reducers, GiveAnExampleItsBitsInAnyBatch) {
  expect(made::vectors_of_an_example_have_their_bits_in_any_batch);
}

// The numbers of the properties above are those of bf16.
TEST(Reducers, AreTheSumsOfNumbersOfAllBits) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const int64_t rows = kOffsets.back();
    const at::Tensor g = made(rows, kColumns, 1, type), x = made(rows, kColumns, 2, type);
    const at::Tensor mean = made(rows, 1, 3, type).view({rows}), rstd = mean.abs();
    const auto [gain, shift] = layer_norm_gradient(g, x, mean, rstd, kOffsets);
    const at::Tensor bias = bias_gradient(g, kOffsets), rms = rms_norm_gradient(g, x, rstd, kOffsets);
    const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
    const at::Tensor scale = wide(rstd).unsqueeze(1);
    const at::Tensor terms[] = {wide(g), wide(g) * (wide(x) - wide(mean).unsqueeze(1)) * scale,
                                wide(g) * wide(x) * scale};
    const at::Tensor sums[] = {bias, gain, rms};
    for (int64_t b = 0; b + 1 < static_cast<int64_t>(kOffsets.size()); ++b)
      for (int k = 0; k < 3; ++k) {
        const at::Tensor own = terms[k].narrow(0, kOffsets[b], kOffsets[b + 1] - kOffsets[b]);
        const at::Tensor error = (wide(sums[k][b]) - own.sum(0)).abs();
        const double relative = type == at::kDouble ? 1e-12 : 0x1p-20;
        EXPECT_TRUE((error <= relative * (own.abs().sum(0) + own.size(0))).all().item<bool>())
            << at::toString(type) << ", sum " << k << ", example " << b;
      }
  }
}

TEST(Reducers, GiveAnExampleTheBitsItHasAloneForAnyThreadCount) {
  const int threads = omp_get_max_threads();
  const int64_t rows = kOffsets.back();
  const at::Tensor g = made(rows, kColumns, 1, at::kFloat), x = made(rows, kColumns, 2, at::kFloat);
  const at::Tensor mean = made(rows, 1, 3, at::kFloat).view({rows}), rstd = mean.abs();
  for (const int count : {1, 2, 5}) {
    omp_set_num_threads(count);
    const auto [gain, shift] = layer_norm_gradient(g, x, mean, rstd, kOffsets);
    for (int64_t b = 0; b + 1 < static_cast<int64_t>(kOffsets.size()); ++b) {
      const int64_t length = kOffsets[b + 1] - kOffsets[b];
      const auto own = [&](const at::Tensor& t) { return t.narrow(0, kOffsets[b], length); };
      const auto [alone, shift_alone] =
          layer_norm_gradient(own(g), own(x), own(mean), own(rstd), std::vector<int64_t>{0, length});
      EXPECT_TRUE(at::equal(gain[b], alone[0]) && at::equal(shift[b], shift_alone[0])) << b;
    }
  }
  omp_set_num_threads(threads);
}

TEST(Reducers, AnExampleWithoutRowsHasNoGradient) {
  const at::Tensor g = made(kOffsets.back(), kColumns, 1, at::kFloat);
  EXPECT_EQ(bias_gradient(g, kOffsets)[1].abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace dpfa::kernels
