// Losses and gradients of rows, and the work of rows that have no target.
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cfenv>
#include <vector>

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

}  // namespace
}  // namespace dpfa::kernels
