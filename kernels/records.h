// What a backward pass leaves behind so that any one example's gradient can be formed later.
//
// B examples share one forward and backward pass, one behind another: rows [offsets[b], offsets[b + 1]) of
// every activation belong to example b alone; N = offsets[B] rows in all. An example may have no row. Rows
// of padded positions hold zeros in every output gradient.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dpfa::kernels {

// A matrix parameter W used as y = x W (stored (d, p)) or as y = x W^T (stored (p, d), output_major).
// Gradient of example b: x_b^T g_b, or its transpose. d inputs, p outputs.
struct LinearRecord {
  at::Tensor input;            // x (N, d), compute type, contiguous
  at::Tensor output_gradient;  // g (N, p), compute type, contiguous
  int64_t offset = 0;          // of W in the flat parameter vector
  bool output_major = false;

  int64_t rows() const { return output_major ? output_gradient.size(1) : input.size(1); }
  int64_t columns() const { return output_major ? input.size(1) : output_gradient.size(1); }
  const at::Tensor& row_operand() const { return output_major ? output_gradient : input; }
  const at::Tensor& column_operand() const { return output_major ? input : output_gradient; }
};

// A vector parameter (bias, LayerNorm gain or shift): its gradient of each example, already reduced over
// tokens.
struct VectorRecord {
  at::Tensor per_example;  // (B, n), f32 (f64 where the compute type is f64)
  int64_t offset = 0;
};

// A table of which every row of the pass reads the row of its id (tokens, or kinds of tokens) and, where the
// model has one, a table of positions, which row t of an example reads at t: row gradients dx (N, C) of the
// sum of both.
// Where the output projection is tied, `tied_head` is the index of its LinearRecord, whose matrix is the
// token table itself: example b's gradient is then the dense head part plus the scattered rows, and its
// norm has a cross term. Otherwise the token table's gradient is the scattered rows alone.
struct EmbeddingRecord {
  std::span<const int64_t> ids;            // (N)
  at::Tensor row_gradient;                 // dx (N, C), compute type
  int64_t token_offset = 0;                // of the (V, C) table
  std::optional<int64_t> position_offset;  // of the (positions, C) table
  std::optional<size_t> tied_head;
};

struct GradientRecords {
  std::vector<int64_t> offsets = {0};  // (B + 1), ascending
  std::vector<LinearRecord> linears;
  std::vector<VectorRecord> vectors;
  std::vector<EmbeddingRecord> embeddings;  // no two of one table

  int64_t examples() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t begin(int64_t example) const { return offsets[example]; }
  int64_t length(int64_t example) const { return offsets[example + 1] - offsets[example]; }
  // The embedding whose token table is the matrix of linears[linear], if there is one.
  std::optional<size_t> embedding_tied_to(size_t linear) const {
    for (size_t e = 0; e < embeddings.size(); ++e)
      if (embeddings[e].tied_head == linear) return e;
    return std::nullopt;
  }
};

// The offsets of B examples of T tokens each.
inline std::vector<int64_t> equal_offsets(int64_t examples, int64_t tokens) {
  std::vector<int64_t> offsets;
  for (int64_t b = 0; b <= examples; ++b) offsets.push_back(b * tokens);
  return offsets;
}

}  // namespace dpfa::kernels
