#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/norm_route.h"
#include "tests/kernels/product_properties.h"

namespace dpfa::kernels {
namespace {

at::Tensor tensor(const made::Matrix& m, at::ScalarType type) {
  at::Tensor rows = at::empty({m.rows, m.columns}, at::kDouble);
  for (int64_t i = 0; i < m.rows * m.columns; ++i)
    rows.data_ptr<double>()[i] = m.at(i / m.columns, i % m.columns);
  return rows.to(type);
}

made::ClippedSum clip(NormRoute& route, at::ScalarType type, const std::vector<made::Product>& products,
                      const std::vector<int64_t>& offsets, const std::vector<uint8_t>& selected,
                      double max_grad_norm) {
  GradientRecords records;
  records.offsets = offsets;
  int64_t parameters = 0;
  for (const made::Product& p : products) {
    records.linears.push_back({tensor(p.x, type), tensor(p.g, type), parameters, false});
    parameters += p.x.columns * p.g.columns;
  }
  made::ClippedSum result;
  result.integers.resize(static_cast<size_t>(parameters));
  std::vector<ExampleOutcome> outcomes(selected.size());
  IntegerSink sink(result.integers, made::kSumExponent);
  route.accumulate(records, selected, max_grad_norm, sink, outcomes);
  for (const ExampleOutcome& one : outcomes) {
    result.norms.push_back(one.norm);
    result.factors.push_back(one.factor);
  }
  return result;
}

// A property of every backend, by the routes that measure the products that they add, in each compute type.
void expect(void (*property)(made::Failures&, const made::ClippingBackend&)) {
  for (const bool exact : {true, false})
    for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const auto route = exact ? make_exact_route() : make_gram_route({.method = "direct"});
      // 300 terms in f32; the exact route's products are rounded to the compute type.
      const double relative = type == at::kDouble ? 1e-12 : exact && type == at::kBFloat16 ? 0x1p-8 : 0x1p-15;
      made::Failures failures;
      property(failures,
               {std::string(exact ? "exact, " : "direct, ") + c10::toString(type),
                [&](const auto&... arguments) { return clip(*route, type, arguments...); }, relative});
      EXPECT_EQ(failures.text(), "");
    }
}

TEST(ClippedProducts, AddEveryExampleWithItsOwnFactor) {
  expect(made::every_example_is_added_with_its_own_factor);
}

TEST(ClippedProducts, OfABatchAreThoseOfItsExamplesAlone) {
  expect(made::integers_of_a_batch_are_those_of_its_examples_alone);
}

TEST(ClippedProducts, LeaveOutAnExampleThatIsNotFinite) {
  expect(made::an_example_that_is_not_finite_adds_nothing);
}

}  // namespace
}  // namespace dpfa::kernels
