// Matrices of the size at which panels are cut in columns and routes run in parallel, as in real models.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "kernels/contribution_sink.h"
#include "kernels/norm_route.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kVocab = 1700, kWidth = 900, kInputs = 130;  // 1.8 million elements in two matrices
constexpr int kGridExponent = -20;
constexpr double kMaxGradNorm = 1;

// Two matrices, x W (kInputs, kWidth) and a tied table (kVocab, kWidth) stored output-major; records of 5, 0,
// 64 and 33 tokens.
struct MadeUp {
  explicit MadeUp(at::ScalarType compute) {
    at::manual_seed(1);
    records.offsets = {0, 5, 5, 69, 102};
    const int64_t rows = records.offsets.back();
    const auto made = [&](int64_t columns) { return at::randn({rows, columns}).to(compute); };
    records.linears.push_back({made(kInputs), made(kWidth), 0, false});
    records.linears.push_back({made(kWidth), made(kVocab), kInputs * kWidth, true});
    for (int64_t i = 0; i < rows; ++i) ids.push_back((i * i + 3) % 40 * 41);  // some come again
    EmbeddingRecord embedding;
    embedding.ids = ids;
    embedding.row_gradient = made(kWidth);
    embedding.token_offset = records.linears[1].offset;
    embedding.position_offset = embedding.token_offset + kVocab * kWidth;
    embedding.tied_head = 1;
    records.embeddings.push_back(embedding);
  }
  static constexpr int64_t kParameters = (kInputs + kVocab + 64) * kWidth;

  // Of one example, in double, by LibTorch's plain product.
  at::Tensor gradient(int64_t b) const {
    const auto rows = [&](const at::Tensor& t) {
      return t.narrow(0, records.begin(b), records.length(b)).to(at::kDouble);
    };
    at::Tensor all = at::zeros({kParameters}, at::kDouble);
    for (const LinearRecord& linear : records.linears)
      all.narrow(0, linear.offset, linear.rows() * linear.columns())
          .copy_(at::mm(rows(linear.row_operand()).t(), rows(linear.column_operand())).flatten());
    const EmbeddingRecord& embedding = records.embeddings.front();
    const at::Tensor dx = rows(embedding.row_gradient);
    at::Tensor table = all.narrow(0, embedding.token_offset, kVocab * kWidth).view({kVocab, kWidth});
    for (int64_t t = 0; t < records.length(b); ++t) {
      table[ids[records.begin(b) + t]] += dx[t];
      all.narrow(0, *embedding.position_offset + t * kWidth, kWidth) += dx[t];
    }
    return all;
  }

  GradientRecords records;
  std::vector<int64_t> ids;
};

struct Sum {
  std::vector<int32_t> integers = std::vector<int32_t>(MadeUp::kParameters);
  std::vector<ExampleOutcome> outcomes;
};

Sum run(const std::string& method, const MadeUp& made, int threads) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  Sum sum;
  sum.outcomes.resize(made.records.examples());
  const std::vector<uint8_t> selected(made.records.examples(), 1);
  IntegerSink sink(sum.integers, kGridExponent);
  const auto route = method == "exact" ? make_exact_route() : make_gram_route({.method = method});
  route->accumulate(made.records, selected, kMaxGradNorm, sink, sum.outcomes);
  omp_set_num_threads(before);
  return sum;
}

class SplitPanels : public ::testing::TestWithParam<std::tuple<std::string, at::ScalarType>> {};

TEST_P(SplitPanels, AddTheClippedGradientsOfTheOracleForAnyNumberOfThreads) {
  const auto& [method, compute] = GetParam();
  const MadeUp made(compute);
  const Sum sum = run(method, made, 1);
  // In bf16 the exact route adds products that are rounded to bf16: each by 2^-9 at most.
  const double relative = compute == at::kBFloat16 && method == "exact" ? 0x1p-8 : 1e-5;
  at::Tensor expected = at::zeros({MadeUp::kParameters}, at::kDouble);
  for (int64_t b = 0; b < made.records.examples(); ++b) {
    const at::Tensor gradient = made.gradient(b);
    const double norm = gradient.norm().item<double>();
    EXPECT_NEAR(sum.outcomes[b].norm, norm, relative * norm) << b;
    if (norm > 0) expected += gradient * (kMaxGradNorm / norm);
  }
  const at::Tensor found =
      at::tensor(at::ArrayRef<int>(sum.integers)).to(at::kDouble) * std::ldexp(1.0, kGridExponent);
  // Three contributions of norm 1, each rounded to the grid.
  const double grid = std::ldexp(std::sqrt(static_cast<double>(MadeUp::kParameters)), kGridExponent);
  EXPECT_LT((found - expected).norm().item<double>(), 3 * (relative + grid));
  EXPECT_GT(expected.norm().item<double>(), 1);
  for (const int threads : {2, 7})
    EXPECT_EQ(run(method, made, threads).integers, sum.integers) << threads << " threads";
}

INSTANTIATE_TEST_SUITE_P(Routes, SplitPanels,
                         ::testing::Combine(::testing::Values("exact", "gram", "direct", "materialise"),
                                            ::testing::Values(at::kFloat, at::kBFloat16)),
                         [](const auto& given) {
                           return std::get<0>(given.param) +
                                  (std::get<1>(given.param) == at::kFloat ? "_fp32" : "_bf16");
                         });

}  // namespace
}  // namespace dpfa::kernels
