// Vectors of normalisation layers and biases, embeddings, the cross term of a tied table.
#include <algorithm>

#include "kernels/cuda/clip.h"
#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/reducers.h"
#include "tests/kernels/cuda/suite.h"
#include "tests/kernels/reducer_properties.h"

namespace dpfa::kernels::cuda::suite {
namespace {

VectorGradients reduce(const NormalisedRows& rows, const std::vector<int64_t>& offsets) {
  const auto examples = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t columns = rows.g.columns, count = examples * columns;
  const DeviceArray<int64_t> o{std::span<const int64_t>(offsets)};
  const DeviceArray<uint16_t> g{std::span<const uint16_t>(contiguous(rows.g))},
      x{std::span<const uint16_t>(contiguous(rows.x))};
  const DeviceArray<float> mean{std::span<const float>(rows.mean)}, rstd{std::span<const float>(rows.rstd)};
  DeviceArray<float> bias(count), gain(count), shift(count), rms(count);
  const RowsOfExamples shape = {o.data(), examples, columns};
  bias_gradient(shape, g.data(), bias.data(), nullptr);
  norm_layer_gradient(shape, g.data(), x.data(), mean.data(), rstd.data(), gain.data(), shift.data(),
                      nullptr);
  norm_layer_gradient(shape, g.data(), x.data(), nullptr, rstd.data(), rms.data(), nullptr, nullptr);
  const auto wide = [](const DeviceArray<float>& values) {
    const std::vector<float> host = values.to_host();
    return std::vector<double>(host.begin(), host.end());
  };
  return {wide(bias), wide(gain), wide(shift), wide(rms)};
}

Case of_every_backend(const char* name, void (*property)(Failures&, const ReducerBackend&)) {
  return {name, [property](Failures& f) { property(f, {"CUDA", 0x1p-21, reduce}); }};
}

void vectors_and_positions_are_measured_and_added_as_integers(Failures& f) {
  const Lengths lengths = {5, 0, 9, 3};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  constexpr int64_t kColumns = 70, kPositions = 12;
  const Matrix g = random_matrix(4, offsets.back(), kColumns);
  std::vector<float> values;
  for (int i = 0; i < 4 * kColumns; ++i) values.push_back(0.01f * static_cast<float>(i % 37 - 18));
  const std::vector<float> scales = {1000.5f, 3.0f, 0.0f, 77.25f};
  const DeviceArray<int64_t> o{std::span<const int64_t>(offsets)};
  const DeviceArray<uint16_t> gs{std::span<const uint16_t>(contiguous(g))};
  const DeviceArray<float> v{std::span<const float>(values)}, s{std::span<const float>(scales)};
  DeviceArray<int32_t> sum{std::span<const int32_t>(std::vector<int32_t>(kColumns, 2))},
      table{std::span<const int32_t>(std::vector<int32_t>(kPositions * kColumns, 3))};
  DeviceArray<double> parts(2 * 4), squares(4);
  parts.fill_bytes(unwritten_byte(), nullptr);
  const RowsOfExamples shape = {o.data(), 4, kColumns};
  add_integers(v.data(), s.data(), 4, kColumns, sum.data(), nullptr);
  vector_squares(v.data(), 4, kColumns, parts.data(), nullptr);
  add_position_integers(shape, gs.data(), s.data(), kPositions, table.data(), nullptr);
  position_squares(shape, gs.data(), parts.data() + 4, nullptr);
  sum_parts(parts.data(), 2, 4, squares.data(), nullptr);
  std::vector<int32_t> expected(kColumns, 2), expected_table(kPositions * kColumns, 3);
  const std::vector<double> got = squares.to_host();
  for (size_t b = 0; b < 4; ++b) {
    double squared = 0;
    for (int64_t c = 0; c < kColumns; ++c) {
      squared += static_cast<double>(values[b * kColumns + c]) * values[b * kColumns + c];
      if (scales[b] > 0) expected[c] += static_cast<int32_t>(std::rint(values[b * kColumns + c] * scales[b]));
      for (int64_t t = 0; t < lengths[b]; ++t) {
        const auto v_t = static_cast<float>(g.at(offsets[b] + t, c));
        squared += static_cast<double>(v_t) * v_t;
        if (scales[b] > 0)
          expected_table[t * kColumns + c] += static_cast<int32_t>(std::rint(v_t * scales[b]));
      }
    }
    f.expect(std::abs(got[b] - squared) <= 1e-12 * squared, "squares ", got[b], " for ", squared);
  }
  f.expect(sum.to_host() == expected, "integers of vectors");
  f.expect(table.to_host() == expected_table, "integers of positions");
}

void expect_embedding_rows(Failures& f, const Lengths& lengths, int64_t columns) {
  const std::vector<int64_t> offsets = offsets_of(lengths);
  const auto examples = static_cast<int64_t>(lengths.size());
  constexpr int64_t kVocabulary = 19;
  const Matrix g = random_matrix(6, offsets.back(), columns);
  std::vector<int64_t> ids;
  for (int64_t t = 0; t < offsets.back(); ++t) ids.push_back(t * t % kVocabulary);
  std::vector<float> scales;
  for (int64_t b = 0; b < examples; ++b) scales.push_back(b == 1 ? 0.0f : 100.0f * static_cast<float>(b + 1));
  const DeviceTokenGroups groups(token_groups(ids, offsets));
  const DeviceArray<uint16_t> gs{std::span<const uint16_t>(contiguous(g))};
  const DeviceArray<float> s{std::span<const float>(scales)};
  DeviceArray<float> rows(groups.groups() * columns);
  DeviceArray<double> squares(examples);
  DeviceArray<int32_t> table{std::span<const int32_t>(std::vector<int32_t>(kVocabulary * columns, 0))};
  embedding_rows(groups, gs.data(), columns, rows.data(), nullptr);
  token_row_squares(groups, examples, rows.data(), columns, squares.data(), nullptr);
  add_row_integers(groups, examples, rows.data(), columns, s.data(), table.data(), nullptr);
  const std::vector<double> got = squares.to_host();
  std::vector<int32_t> expected(kVocabulary * columns);
  for (int64_t b = 0; b < examples; ++b) {
    std::vector<double> dense(kVocabulary * columns);
    for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t)
      for (int64_t c = 0; c < columns; ++c) dense[ids[t] * columns + c] += g.at(t, c);
    double squared = 0;
    for (size_t i = 0; i < dense.size(); ++i) {
      const auto row = static_cast<float>(dense[i]);
      squared += static_cast<double>(row) * row;
      if (scales[b] > 0) expected[i] += static_cast<int32_t>(std::rint(row * scales[b]));
    }
    f.expect(std::abs(got[b] - squared) <= 1e-12 * squared, "squares ", got[b], " for ", squared);
  }
  f.expect(table.to_host() == expected, "integers of an embedding, ", examples, " examples");
}
void embedding_rows_are_the_sums_over_equal_tokens(Failures& f) {
  for (const Lengths& lengths : batches()) expect_embedding_rows(f, lengths, 45);
  expect_embedding_rows(f, {5, 0, 30}, 1100);
}

void expect_cross_term(Failures& f, const Lengths& lengths, int64_t columns) {
  const std::vector<int64_t> offsets = offsets_of(lengths);
  const auto examples = static_cast<int64_t>(lengths.size());
  constexpr int64_t kVocabulary = 23;
  const Matrix g = random_matrix(7, offsets.back(), columns), h = random_matrix(8, offsets.back(), columns),
               z = random_matrix(9, offsets.back(), kVocabulary);
  std::vector<int64_t> ids;
  for (int64_t t = 0; t < offsets.back(); ++t) ids.push_back(t * t % kVocabulary);
  const DeviceArray<uint16_t> gs{std::span<const uint16_t>(g.bits)}, hs{std::span<const uint16_t>(h.bits)},
      zs{std::span<const uint16_t>(z.bits)};
  const DeviceArray<int64_t> on_device{std::span<const int64_t>(ids)};
  DeviceArray<double> terms(examples), magnitudes(examples);
  CrossTermPlan plan(offsets, columns);
  plan.run({gs.data(), hs.data(), zs.data(), g.stride, h.stride, z.stride, on_device.data()}, terms.data(),
           magnitudes.data(), nullptr);
  const std::vector<double> got = terms.to_host(), magnitude = magnitudes.to_host();
  for (int64_t b = 0; b < examples; ++b) {
    std::vector<double> e(kVocabulary * columns), head = product(z, h, offsets[b], offsets[b + 1]),
                                                  sum = head;
    for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t)
      for (int64_t c = 0; c < columns; ++c) e[ids[t] * columns + c] += g.at(t, c);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += e[i];
    const double whole = squared_norm(sum), parts = squared_norm(e) + squared_norm(head);
    f.expect(std::abs(parts + 2 * got[b] - whole) <= 2 * product_error(columns) * magnitude[b] + 1e-9 * parts,
             "length ", lengths[b], ": ", parts, " + 2 x ", got[b], " for ", whole);
  }
}
void cross_term_completes_the_norm_of_a_tied_table(Failures& f) {
  for (const Lengths& lengths : batches()) expect_cross_term(f, lengths, 72);
  expect_cross_term(f, {700, 20}, 456);  // more steps than stages, more tiles than lanes
}

// Seven units of five matrices, of which the third has none.
void what_gram_norms_do_not_certify_is_measured_directly(Failures& f) {
  const std::vector<int64_t> unit_matrix = {0, 0, 1, 3, 3, 3, 4};
  constexpr int64_t kUnits = 7, kMatrices = 5, kExamples = 3;
  std::vector<uint8_t> certified(kUnits * kExamples, 1), expected_active;
  certified[1 * kExamples + 0] = certified[5 * kExamples + 2] = 0;  // of matrices 0 and 3
  const std::vector<uint8_t> selected = {1, 0, 1};
  std::vector<GramResult> results;
  for (int i = 0; i < kUnits * kExamples; ++i) results.push_back({1.0 + i, 0.25 * i, 0});
  std::vector<double> direct, expected(kExamples);
  for (int i = 0; i < kMatrices * kExamples; ++i) direct.push_back(1000.0 * (i + 1));
  for (int64_t m = 0; m < kMatrices; ++m)
    for (int64_t b = 0; b < kExamples; ++b) {
      bool has_unit = false, certain = true;
      double gram = 0;
      for (int64_t u = 0; u < kUnits; ++u) {
        if (unit_matrix[u] != m) continue;
        has_unit = true;
        certain = certain && certified[u * kExamples + b] != 0;
        gram += upper_squared(results[u * kExamples + b]);
      }
      expected_active.push_back((!has_unit || !certain) && selected[b] != 0 ? 1 : 0);
      expected[b] += expected_active.back() != 0 ? direct[m * kExamples + b] : gram;
    }
  const DeviceArray<uint8_t> c{std::span<const uint8_t>(certified)}, s{std::span<const uint8_t>(selected)};
  const DeviceArray<int64_t> of{std::span<const int64_t>(unit_matrix)};
  const DeviceArray<GramResult> r{std::span<const GramResult>(results)};
  const DeviceArray<double> d{std::span<const double>(direct)};
  DeviceArray<uint8_t> active(kMatrices * kExamples);
  DeviceArray<double> squares(kExamples);
  choose_direct(c.data(), of.data(), kUnits, kMatrices, s.data(), kExamples, active.data(), nullptr);
  matrix_squares(r.data(), of.data(), kUnits, d.data(), active.data(), kMatrices, kExamples, squares.data(),
                 nullptr);
  f.expect(active.to_host() == expected_active, "what is to be measured directly");
  f.expect(squares.to_host() == expected, "sums over matrices");  // of whole quarters: exact
}

}  // namespace

std::vector<Case> reducer_cases() {
  return {
      of_every_backend("VectorsAreTheSumsOverTokens", vectors_are_the_sums_over_tokens),
      of_every_backend("VectorsOfAnExampleHaveTheirBitsInAnyBatch",
                       vectors_of_an_example_have_their_bits_in_any_batch),
      {"VectorsAndPositionsAreMeasuredAndAddedAsIntegers",
       vectors_and_positions_are_measured_and_added_as_integers},
      {"EmbeddingRowsAreTheSumsOverEqualTokens", embedding_rows_are_the_sums_over_equal_tokens},
      {"CrossTermCompletesTheNormOfATiedTable", cross_term_completes_the_norm_of_a_tied_table},
      {"WhatGramNormsDoNotCertifyIsMeasuredDirectly", what_gram_norms_do_not_certify_is_measured_directly}};
}

}  // namespace dpfa::kernels::cuda::suite
