#include "kernels/gemm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <random>
#include <tuple>
#include <vector>

namespace dpfa::kernels {
namespace {

at::Tensor random_matrix(int64_t rows, int64_t columns, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  at::Tensor result = at::empty({rows, columns});
  for (int64_t i = 0; i < rows * columns; ++i) result.data_ptr<float>()[i] = normal(random);
  return result;
}

// Every element off by at most (k + 1) u sum |a| |b|: the bound of a chain of k additions in any order.
void expect_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                    const at::Tensor& start) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble), s = start.to(at::kDouble);
  const at::Tensor bound =
      (at::mm(x.abs(), y.abs()) + s.abs()) * (static_cast<double>(a.size(1)) + 2) * 0x1p-24;
  EXPECT_TRUE(((out.to(at::kDouble) - at::mm(x, y) - s).abs() <= bound).all().item<bool>())
      << a.sizes() << b.sizes();
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) { return at::equal(a, b); }

class ThreadCount : public ::testing::Test {
 protected:
  void TearDown() override { omp_set_num_threads(threads_); }
  const int threads_ = omp_get_max_threads();
};

using Gemm = ThreadCount;

// Sizes on both sides of every block: rows, columns, depth, and more than one of each.
const std::vector<std::tuple<int64_t, int64_t, int64_t>> kSizes = {
    {1, 1, 1},       {3, 5, 2},        {64, 64, 16},   {65, 63, 17},
    {130, 200, 769}, {300, 129, 1000}, {7, 257, 1537}, {129, 385, 385}};

TEST_F(Gemm, EqualsTheProductInDoubleForRowMajorAndTransposedOperands) {
  for (const auto& [m, n, k] : kSizes) {
    const at::Tensor a = random_matrix(m, k, 1), b = random_matrix(k, n, 2), bt = b.t().contiguous();
    const at::Tensor bias = random_matrix(1, n, 3)[0], zero = at::zeros({m, n});
    at::Tensor out = at::full({m, n}, NAN);
    multiply(a, b, out);
    expect_product(out, a, b, zero);
    multiply(a, bt.t(), out, bias);
    expect_product(out, a, b, zero + bias);
    const at::Tensor at = a.t().contiguous(), start = random_matrix(m, n, 4);
    out.fill_(NAN);
    multiply_transposed(at, b, /*accumulate=*/false, out);
    expect_product(out, a, b, zero);
    out.copy_(start);
    multiply_transposed(at, b, /*accumulate=*/true, out);
    expect_product(out, a, b, start);
  }
}

TEST_F(Gemm, ReadsAndWritesRowsAtTheirStrides) {
  const at::Tensor a = random_matrix(70, 90, 1), b = random_matrix(90, 150, 2);
  at::Tensor out = at::full({70, 200}, 7.0f), window = out.narrow(1, 20, 100);
  multiply(a.narrow(1, 10, 50), b.narrow(0, 5, 50).narrow(1, 30, 100), window);
  expect_product(window, a.narrow(1, 10, 50), b.narrow(0, 5, 50).narrow(1, 30, 100), at::zeros({70, 100}));
  EXPECT_TRUE((out.narrow(1, 0, 20) == 7).all().item<bool>() &&
              (out.narrow(1, 120, 80) == 7).all().item<bool>());
}

TEST_F(Gemm, HasTheSameBitsForAnyThreadCount) {
  const at::Tensor a = random_matrix(700, 800, 1), b = random_matrix(800, 400, 2);
  at::Tensor expected = at::empty({700, 400}), out = at::empty({700, 400});
  at::Tensor expected_t = at::empty({800, 400}), out_t = at::empty({800, 400});
  const at::Tensor c = random_matrix(700, 400, 3);
  omp_set_num_threads(1);
  multiply(a, b, expected);
  multiply_transposed(a, c, false, expected_t);
  for (const int threads : {2, 3, 8}) {
    omp_set_num_threads(threads);
    multiply(a, b, out);
    multiply_transposed(a, c, false, out_t);
    EXPECT_TRUE(same_bits(out, expected) && same_bits(out_t, expected_t)) << threads;
  }
}

TEST_F(Gemm, ARowHasTheBitsItHasAloneWhateverItsPlaceAndNeighbours) {
  for (const int64_t k : {63, 768, 1500}) {
    const at::Tensor b = random_matrix(k, 200, 2), row = random_matrix(1, k, 9);
    at::Tensor alone = at::empty({1, 200});
    multiply(row, b, alone);
    for (const int64_t rows : {2, 7, 65, 200})
      for (const int64_t place : {int64_t{0}, rows / 2, rows - 1}) {
        at::Tensor a = random_matrix(rows, k, 100 + rows), out = at::empty({rows, 200});
        a[place].copy_(row[0]);
        multiply(a, b, out);
        EXPECT_TRUE(same_bits(out[place], alone[0])) << k << " deep, row " << place << " of " << rows;
      }
  }
}

TEST_F(Gemm, ATileHasTheBitsOfTheWholeProduct) {
  const at::Tensor a = random_matrix(900, 200, 1), b = random_matrix(900, 400, 2);
  at::Tensor whole = at::empty({200, 400}), tile = at::empty({64, 130});
  multiply_transposed(a, b, false, whole);
  multiply_transposed_tile(64, 130, 900, a.data_ptr<float>() + 128, 200, b.data_ptr<float>() + 256, 400,
                           false, tile.data_ptr<float>(), 130);
  EXPECT_TRUE(same_bits(tile, whole.narrow(0, 128, 64).narrow(1, 256, 130)));
  at::Tensor by_one_thread = at::empty({200, 400});  // larger than a tile
  multiply_transposed_tile(200, 400, 900, a.data_ptr<float>(), 200, b.data_ptr<float>(), 400, false,
                           by_one_thread.data_ptr<float>(), 400);
  EXPECT_TRUE(same_bits(by_one_thread, whole));
}

TEST_F(Gemm, ATileOfBf16OperandsHasTheBitsOfTheSameNumbersInF32) {
  const at::Tensor a = random_matrix(900, 200, 1).to(at::kBFloat16);
  const at::Tensor b = random_matrix(900, 400, 2).to(at::kBFloat16);
  const at::Tensor wide_a = a.to(at::kFloat), wide_b = b.to(at::kFloat);
  at::Tensor out = at::empty({200, 400}), expected = at::empty({200, 400});
  multiply_transposed_tile(200, 400, 900, a.data_ptr<c10::BFloat16>(), 200, b.data_ptr<c10::BFloat16>(), 400,
                           false, out.data_ptr<float>(), 400);
  multiply_transposed_tile(200, 400, 900, wide_a.data_ptr<float>(), 200, wide_b.data_ptr<float>(), 400, false,
                           expected.data_ptr<float>(), 400);
  EXPECT_TRUE(same_bits(out, expected));
}

TEST_F(Gemm, ANonFiniteRowStaysInItsRow) {
  at::Tensor a = random_matrix(100, 80, 1), out = at::empty({100, 90}), clean = at::empty({100, 90});
  const at::Tensor b = random_matrix(80, 90, 2);
  multiply(a, b, clean);
  a[40].fill_(INFINITY);
  multiply(a, b, out);
  EXPECT_FALSE(at::isfinite(out[40]).any().item<bool>());
  out[40].copy_(clean[40]);
  EXPECT_TRUE(same_bits(out, clean));
}

TEST_F(Gemm, OtherTypesGoToTheLibrary) {
  for (const auto type : {at::kDouble, at::kBFloat16}) {
    const at::Tensor a = random_matrix(30, 40, 1).to(type), b = random_matrix(40, 50, 2).to(type);
    const at::Tensor at = a.t().contiguous();
    at::Tensor out = at::empty({30, 50}, a.options());
    multiply(a, b, out);
    EXPECT_TRUE(at::allclose(out, at::mm(a, b)));
    multiply_transposed(at, b, false, out);
    EXPECT_TRUE(at::allclose(out, at::mm(a, b)));
  }
}

}  // namespace
}  // namespace dpfa::kernels
