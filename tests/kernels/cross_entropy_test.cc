// Losses and gradients of rows, and the work of rows that have no target.
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cfenv>
#include <limits>
#include <vector>

#include "src/model/gpt2.h"
#include "tests/support/engine_oracle.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kVocab = 300, kIgnored = -100;

struct Rows {
  at::Tensor logits;
  std::vector<double> losses;
  bool took_work;  // whether any operation was rounded
};

// On one thread, whose floating-point flags tell whether anything was computed.
Rows run(const std::vector<int64_t>& targets, at::ScalarType compute, bool every_row) {
  const auto rows = static_cast<int64_t>(targets.size());
  Rows result{at::linspace(-3, 4, rows * kVocab).view({rows, kVocab}).to(compute),
              std::vector<double>(targets.size(), -1.0), false};
  const std::vector<double> weights(targets.size(), 0.3);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  std::feclearexcept(FE_ALL_EXCEPT);
  cross_entropy_in_place(result.logits, targets, weights, result.losses, every_row);
  result.took_work = std::fetestexcept(FE_INEXACT) != 0;
  omp_set_num_threads(threads);
  return result;
}

TEST(CrossEntropy, EveryRowTakesTheWorkOfASoftmaxAndIgnoredOnesGiveZeros) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const std::vector<int64_t> none(3, kIgnored);
    EXPECT_FALSE(run(none, compute, /*every_row=*/false).took_work);
    const Rows rows = run(none, compute, /*every_row=*/true);
    EXPECT_TRUE(rows.took_work) << c10::toString(compute);
    EXPECT_EQ(rows.losses, std::vector<double>(3, 0.0));
    EXPECT_TRUE(at::equal(rows.logits, at::zeros_like(rows.logits)));
  }
}

TEST(CrossEntropy, OfRowsWithATargetIsTheSameWhateverIgnoredRowsTake) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const std::vector<int64_t> targets = {7, kIgnored, 299};
    const Rows all = run(targets, compute, true), some = run(targets, compute, false);
    EXPECT_EQ(all.losses, some.losses);
    EXPECT_EQ(all.losses[1], 0);
    EXPECT_TRUE(at::equal(all.logits, some.logits));
  }
}

// One logit of every position is infinite, so a softmax subtracts infinities, which nothing else does here.
TEST(CrossEntropy, OfAModelsPaddingTakesTheWorkThatItsBatchAsksFor) {
  const plan::Gpt2Shape shape{
      .layers = 1, .width = 16, .heads = 2, .positions = 8, .vocab = 61, .tied_head = false};
  std::vector<float> weights = test::made_parameters(shape);
  model::Gpt2 model(shape, at::kFloat);
  weights[model::gpt2_parameters(shape).back().offset + 5] = std::numeric_limits<float>::infinity();
  model.bind(weights);
  const std::vector<int64_t> ids(8, 3), targets(8, kIgnored), records = {0};
  const std::vector<double> loss_weights = {1};
  std::vector<double> losses(1);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  for (const bool every_row : {false, true}) {
    std::feclearexcept(FE_ALL_EXCEPT);
    model.forward({1, 8, ids, targets, loss_weights, records, {}, every_row}, nullptr, /*for_backward=*/true,
                  losses);
    EXPECT_EQ(std::fetestexcept(FE_INVALID) != 0, every_row);
    EXPECT_EQ(losses[0], 0);
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace dpfa::kernels
