#include "kernels/gelu.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "kernels/vector_exp.h"

namespace dpfa::kernels {
namespace {

at::Tensor spread(int64_t rows, int64_t columns) {
  return at::linspace(-12, 12, rows * columns, at::kDouble).view({rows, columns});
}

TEST(Gelu, ValueAndSlopeAreThoseOfItsDefinitionToTheTypesPrecision) {
  const at::Tensor x = spread(7, 301), g = (spread(7, 301) * 3).cos();
  for (const auto& [type, tolerance] :
       {std::pair{at::kDouble, 1e-14}, {at::kFloat, 2e-6}, {at::kBFloat16, 8e-3}}) {
    const at::Tensor in = x.to(type), gradient = g.to(type);
    at::Tensor y = at::empty_like(in), dx = at::empty_like(in);
    gelu(in, y);
    gelu_gradient(gradient, in, dx);
    const at::Tensor exact = at::gelu(in.to(at::kDouble), "tanh");
    const at::Tensor slope = at::gelu_backward(gradient.to(at::kDouble), in.to(at::kDouble), "tanh");
    // The reference loses what 1 + tanh cancels: up to 1e-15 of |x| = 12.
    EXPECT_LE(((y.to(at::kDouble) - exact).abs() - tolerance * exact.abs()).max().item<double>(), 1e-14)
        << c10::toString(type);
    EXPECT_LE((dx.to(at::kDouble) - slope).abs().max().item<double>(), tolerance) << c10::toString(type);
  }
}

// The operations of gelu.cc one by one: this file is compiled for the oldest processor of its kind, which
// fuses none of them.
float value_of(float x) {
  const float z = 1.5957691216057308f * (x + 0.044715f * x * x * x);
  const float e = exp_of_nonpositive(z < 0 ? z : -z);
  return x * (z < 0 ? e / (1 + e) : 1 / (1 + e));
}

TEST(Gelu, HasTheBitsOfOneRoundingForEachOperation) {
  const at::Tensor x = spread(3, 1001).to(at::kFloat);
  at::Tensor y = at::empty_like(x);
  gelu(x, y);
  for (int64_t i = 0; i < x.numel(); ++i)
    ASSERT_EQ(y.data_ptr<float>()[i], value_of(x.data_ptr<float>()[i])) << x.data_ptr<float>()[i];
}

TEST(Gelu, ARowHasTheBitsItHasAloneForAnyNumberOfRowsAndThreads) {
  const int threads = omp_get_max_threads();
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const int64_t columns : {5, 48, 301}) {
      const at::Tensor x = spread(9, columns).to(type), g = x.cos();
      for (const int count : {1, 2, 5}) {
        omp_set_num_threads(count);
        at::Tensor y = at::empty_like(x), dx = at::empty_like(x);
        gelu(x, y);
        gelu_gradient(g, x, dx);
        for (int64_t row = 0; row < 9; ++row) {
          at::Tensor one = x.narrow(0, row, 1).clone(), value = at::empty_like(one),
                     slope = at::empty_like(one);
          gelu(one, value);
          gelu_gradient(g.narrow(0, row, 1), one, slope);
          EXPECT_TRUE(at::equal(value, y.narrow(0, row, 1)) && at::equal(slope, dx.narrow(0, row, 1)));
        }
      }
    }
  omp_set_num_threads(threads);
}

TEST(Gelu, OfWhatIsNotFiniteIsNotFiniteOrItsLimit) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    at::Tensor x = at::tensor({NAN, INFINITY, -1e30, 1e30, 0.0}).view({1, 5}).to(type), y = at::empty_like(x);
    gelu(x, y);
    EXPECT_TRUE(std::isnan(y[0][0].item<double>()));
    EXPECT_EQ(y[0][1].item<double>(), INFINITY);
    EXPECT_EQ(y[0][2].item<double>(), 0);
    EXPECT_EQ(y[0][3].item<double>(), x[0][3].item<double>());
    EXPECT_EQ(y[0][4].item<double>(), 0);
  }
}

}  // namespace
}  // namespace dpfa::kernels
