#include "kernels/reducers.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

namespace dpfa::kernels {
namespace {

// Rows that differ everywhere, in the type asked for.
at::Tensor made(int64_t rows, int64_t columns, double phase, at::ScalarType type) {
  return at::arange(rows * columns, at::kDouble).mul(0.37).add(phase).sin().view({rows, columns}).to(type);
}

const std::vector<int64_t> kOffsets = {0, 3, 3, 70, 71};
constexpr int64_t kColumns = 300;  // more than one block

// The sum of `rows` over each example, in double.
at::Tensor sums(const at::Tensor& rows) {
  std::vector<at::Tensor> result;
  for (size_t b = 0; b + 1 < kOffsets.size(); ++b)
    result.push_back(rows.narrow(0, kOffsets[b], kOffsets[b + 1] - kOffsets[b]).sum(0));
  return at::stack(result);
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b).abs().max().item<double>();
}

TEST(Reducers, AreTheSumsOverEachExamplesRows) {
  for (const auto& [type, tolerance] :
       {std::pair{at::kDouble, 1e-12}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-5}}) {
    const int64_t rows = kOffsets.back();
    const at::ScalarType stat = type == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor g = made(rows, kColumns, 1, type), x = made(rows, kColumns, 2, type);
    const at::Tensor mean = made(rows, 1, 3, stat).view({rows}),
                     rstd = made(rows, 1, 4, stat).abs().view({rows});
    const at::Tensor gd = g.to(at::kDouble), xd = x.to(at::kDouble);
    const at::Tensor m = mean.to(at::kDouble).unsqueeze(1), r = rstd.to(at::kDouble).unsqueeze(1);
    EXPECT_LE(distance(bias_gradient(g, kOffsets), sums(gd)), tolerance);
    const auto [gain, shift] = layer_norm_gradient(g, x, mean, rstd, kOffsets);
    EXPECT_LE(distance(gain, sums(gd * (xd - m) * r)), tolerance);
    EXPECT_LE(distance(shift, sums(gd)), tolerance);
    EXPECT_LE(distance(rms_norm_gradient(g, x, rstd, kOffsets), sums(gd * xd * r)), tolerance);
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
