#include "tests/kernels/product_properties.h"

#include <algorithm>
#include <limits>

namespace dpfa::kernels::made {
namespace {

constexpr double kMaxGradNorm = 2;  // between the norms of the examples below

// Neighbours differ by powers of 8: a row that counted to another example would be seen.
std::vector<Product> products_for(const std::vector<int64_t>& offsets) {
  std::vector<Product> products;
  for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{37, 53}, {150, 200}})
    products.push_back(
        {random_matrix(21, offsets.back(), inputs, 0.01f), random_matrix(22, offsets.back(), outputs)});
  for (Product& p : products)
    for (size_t b = 0; b + 1 < offsets.size(); ++b)
      for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t)
        for (int64_t c = 0; c < p.x.columns; ++c)
          p.x.set(t, c, static_cast<float>(std::ldexp(p.x.at(t, c), -3 * static_cast<int>(b % 3))));
  return products;
}

std::vector<Product> rows_of(const std::vector<Product>& products, int64_t begin, int64_t count) {
  std::vector<Product> part;
  for (const Product& p : products) part.push_back({rows_of(p.x, begin, count), rows_of(p.g, begin, count)});
  return part;
}

// One example's gradient over all matrices, and the same of the magnitudes of its terms.
struct Gradient {
  std::vector<double> values, magnitudes;
};
Gradient gradient(const std::vector<Product>& products, int64_t begin, int64_t end) {
  Gradient all;
  for (const Product& p : products) {
    Matrix x = p.x, g = p.g;
    const std::vector<double> values = product(x, g, begin, end);
    for (Matrix* m : {&x, &g})
      for (uint16_t& bits : m->bits) bits &= 0x7FFF;
    const std::vector<double> magnitudes = product(x, g, begin, end);
    all.values.insert(all.values.end(), values.begin(), values.end());
    all.magnitudes.insert(all.magnitudes.end(), magnitudes.begin(), magnitudes.end());
  }
  return all;
}

// Every fourth example is left out, the third before all.
std::vector<uint8_t> some_of(size_t examples) {
  std::vector<uint8_t> selected(examples, 1);
  for (size_t b = 2; b < examples; b += 4) selected[b] = 0;
  return selected;
}

}  // namespace

void every_example_is_added_with_its_own_factor(Failures& f, const ClippingBackend& backend) {
  for (const Lengths& lengths : batches()) {
    const std::vector<int64_t> offsets = offsets_of(lengths);
    const std::vector<Product> products = products_for(offsets);
    const std::vector<uint8_t> selected = some_of(lengths.size());
    const ClippedSum got = backend.clip(products, offsets, selected, kMaxGradNorm);
    std::vector<double> expected(got.integers.size()), error(got.integers.size(), 1e-9);
    for (size_t b = 0; b < lengths.size(); ++b) {
      const Gradient exact = gradient(products, offsets[b], offsets[b + 1]);
      const double norm = std::sqrt(squared_norm(exact.values));
      const double slack = backend.relative * std::sqrt(squared_norm(exact.magnitudes)) + 1e-12;
      const double factor = selected[b] == 0 ? 0 : norm > kMaxGradNorm ? kMaxGradNorm / norm : 1;
      f.expect(selected[b] == 0 || std::abs(got.norms[b] - norm) <= slack, backend.name, ", length ",
               lengths[b], ": norm ", got.norms[b], " for ", norm);
      // Without tokens there is nothing to clip: any factor adds zeros.
      f.expect(lengths[b] == 0 ||
                   std::abs(got.factors[b] - factor) <= factor * slack / std::max(norm, kMaxGradNorm) + 1e-12,
               backend.name, ", length ", lengths[b], ": factor ", got.factors[b], " for ", factor);
      for (size_t i = 0; i < expected.size(); ++i) {
        const double scale = std::ldexp(got.factors[b], -kSumExponent);
        expected[i] += scale * exact.values[i];
        // Half a step; the factor is rounded down to f32, the product to nearest.
        if (scale > 0)
          error[i] +=
              0.5 + scale * (backend.relative * exact.magnitudes[i] + 0x1p-22 * std::abs(exact.values[i]));
      }
    }
    f.expect(got.integers.size() == 37 * 53 + 150 * 200, backend.name, ": ", got.integers.size(),
             " integers");
    for (size_t i = 0; i < expected.size(); ++i)
      f.expect(std::abs(got.integers[i] - expected[i]) <= error[i], backend.name, ", ", lengths.size(),
               " examples, element ", i, ": ", got.integers[i], " for ", expected[i], " +- ", error[i]);
  }
}

void integers_of_a_batch_are_those_of_its_examples_alone(Failures& f, const ClippingBackend& backend) {
  const Lengths lengths = {70, 0, 257, 128, 1, 63};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  const std::vector<Product> products = products_for(offsets);
  const std::vector<uint8_t> selected = some_of(lengths.size());
  const ClippedSum together = backend.clip(products, offsets, selected, kMaxGradNorm);
  std::vector<int32_t> expected(together.integers.size());
  for (size_t b = 0; b < lengths.size(); ++b) {
    if (selected[b] == 0) continue;
    const ClippedSum alone =
        backend.clip(rows_of(products, offsets[b], lengths[b]), {0, lengths[b]}, {1}, kMaxGradNorm);
    f.expect(same_bits(alone.norms[0], together.norms[b]), backend.name, ", length ", lengths[b], ": norm ",
             alone.norms[0], " alone, ", together.norms[b], " among others");
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += alone.integers[i];
  }
  f.expect(together.integers == expected, backend.name, ": the sum is not that of the examples alone");
}

void an_example_that_is_not_finite_adds_nothing(Failures& f, const ClippingBackend& backend) {
  const Lengths lengths = {65, 129, 40};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  const ClippedSum clean = backend.clip(products_for(offsets), offsets, {1, 0, 1}, kMaxGradNorm);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const int64_t row : {offsets[1], offsets[2] - 1}) {  // beside its neighbours' rows
      std::vector<Product> products = products_for(offsets);
      products[0].x.set(row, 3, bad);
      products[1].g.set(row, 9, bad);
      const ClippedSum got = backend.clip(products, offsets, {1, 1, 1}, kMaxGradNorm);
      f.expect(got.factors[1] == 0, backend.name, ", ", bad, ": factor ", got.factors[1]);
      f.expect(got.integers == clean.integers, backend.name, ": ", bad, " reached the sum");
      for (const size_t b : {0, 2})
        f.expect(same_bits(got.norms[b], clean.norms[b]), backend.name, ": ", bad,
                 " reached a neighbour's norm");
    }
}

}  // namespace dpfa::kernels::made
