// Several tables in one pass: each with its own cross term, and no table in two records.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/norm_route.h"
#include "src/base/error.h"
#include "tests/kernels/random_matrix.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kVocab = 40, kWidth = 12;

// Two heads, each tied to a table of its own that the same rows read.
struct TwoTiedTables {
  std::vector<int64_t> ids[2];
  GradientRecords records;

  explicit TwoTiedTables(at::ScalarType type) {
    records.offsets = {0, 30, 31, 31, 100};
    const int64_t rows = records.offsets.back();
    for (int64_t k = 0; k < 2; ++k) {
      for (int64_t t = 0; t < rows; ++t) ids[k].push_back((t * 7 + k * 3) % 11);
      const auto made = [&](int64_t columns, uint64_t seed) {
        return random_matrix(rows, columns, seed + static_cast<uint64_t>(k)).to(type).contiguous();
      };
      records.linears.push_back({made(kWidth, 10), made(kVocab, 20), k * kVocab * kWidth, true});
      records.embeddings.push_back(
          {ids[k], made(kWidth, 30) * (k == 0 ? 5 : 1), k * kVocab * kWidth, {}, static_cast<size_t>(k)});
    }
  }

  at::Tensor gradient(int64_t b) const {
    std::vector<at::Tensor> parts;
    for (int64_t k = 0; k < 2; ++k) {
      const auto own = [&](const at::Tensor& t) {
        return t.to(at::kDouble).narrow(0, records.begin(b), records.length(b));
      };
      at::Tensor table = own(records.linears[k].output_gradient).t().mm(own(records.linears[k].input));
      const auto rows = at::tensor(ids[k]).narrow(0, records.begin(b), records.length(b));
      parts.push_back(table.index_add_(0, rows, own(records.embeddings[k].row_gradient)).view(-1));
    }
    return at::cat(parts);
  }
};

TEST(TiedTables, HaveTheirOwnCrossTermsEach) {
  for (const auto type : {at::kDouble, at::kFloat})
    for (const char* method : {"exact", "gram", "direct", "materialise"}) {
      const TwoTiedTables made(type);
      const int64_t examples = made.records.examples();
      std::vector<double> sum(2 * kVocab * kWidth);
      DoubleSink sink(sum);
      std::vector<ExampleOutcome> outcomes(examples);
      const auto route =
          std::string(method) == "exact" ? make_exact_route() : make_gram_route({.method = method});
      route->accumulate(made.records, std::vector<uint8_t>(examples, 1), 1.0, sink, outcomes);
      at::Tensor expected = at::zeros({2 * kVocab * kWidth}, at::kDouble);
      for (int64_t b = 0; b < examples; ++b) {
        const at::Tensor gradient = made.gradient(b);
        const double norm = gradient.norm().item<double>();
        EXPECT_NEAR(outcomes[b].norm, norm, 1e-5 * norm) << method << ", example " << b;
        if (norm > 0) expected += gradient * std::min(1.0, 1 / norm);
      }
      const double error = (at::tensor(sum, at::kDouble) - expected).norm().item<double>();
      EXPECT_LE(error, 1e-5 * static_cast<double>(examples)) << method;
    }
}

TEST(TiedTables, OfTwoRecordsThatAreOneTableAreRefused) {
  const auto expect_refused = [](const GradientRecords& records) {
    std::vector<double> sum(4 * kVocab * kWidth);
    DoubleSink sink(sum);
    std::vector<ExampleOutcome> outcomes(records.examples());
    const std::vector<uint8_t> all(records.examples(), 1);
    EXPECT_THROW(make_exact_route()->accumulate(records, all, 1.0, sink, outcomes), InternalError);
    EXPECT_THROW(make_gram_route({.method = "gram"})->accumulate(records, all, 1.0, sink, outcomes),
                 InternalError);
  };
  TwoTiedTables tokens(at::kDouble), positions(at::kDouble), head(at::kDouble);
  tokens.records.embeddings[1].token_offset = tokens.records.embeddings[0].token_offset;
  expect_refused(tokens.records);
  for (EmbeddingRecord& one : positions.records.embeddings) one.position_offset = 2 * kVocab * kWidth;
  expect_refused(positions.records);
  head.records.embeddings[1].tied_head = 0;
  expect_refused(head.records);
}

}  // namespace
}  // namespace dpfa::kernels
