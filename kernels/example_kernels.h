// What a clipped step asks of the kernels of a device: norms of per-example gradients, integer contributions,
// and the fused release. The engine (src/device/clipped_step.h) knows nothing else of the device; its tests
// bring an implementation of their own, in double, on host memory.
//
// All pointers are memory of the device, unless they come in a span. Operands are rows of element(), of N
// rows; example b owns rows [offsets[b], offsets[b + 1]), B examples. `squares` are (B) f64; scales
// (B) f32 are factor / grid step, rounded down, 0 where an example contributes nothing: then it is skipped,
// never multiplied. Integers are round(scale x value). Work is put on one queue, in order.
//
// What an implementation promises (what sensitivity rests on): the numbers that a contribution is made of are
// those whose squares were measured, or, for a matrix that the Gram norm stands for, their norm is at most
// kernels::kGramSlack above it (norm_route.h); a NaN stands for what was not measured.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/clip_rule.h"
#include "kernels/noise.h"
#include "kernels/norm_method_type.h"
#include "kernels/optimizer_step.h"

namespace dpfa::kernels {

enum class Element { kBFloat16, kFloat, kDouble };

// A matrix parameter, row-major at `offset` of the parameter vector; example b's gradient is left_b^T
// right_b, left (N, rows), right (N, columns) at strides in elements. How its norms are measured:
//   gram         from Gram matrices where they are certified; elsewhere as direct
//   direct       from the gradient, which is formed again to be added
//   materialise  from the gradient rounded to element(), which is kept as it was measured until it is added
struct ExampleMatrix {
  const void* left;
  int64_t left_stride, rows;
  const void* right;
  int64_t right_stride, columns;
  int64_t offset;
  NormMethod method;
  // Of a tied token table: the embedding's rows (embedding_rows()), part of the gradient. Null elsewhere.
  const float* extra_rows = nullptr;

  bool operator==(const ExampleMatrix&) const = default;
};

// g the gradient of the embeddings' output, h the inputs of the head (N, n) contiguous, z the gradient of the
// logits (N, vocabulary) at z_stride.
struct TiedTable {
  int64_t matrix;  // its number
  const void *g, *h, *z;
  int64_t n, z_stride;
  const double* row_squares;  // (B): of the embedding's rows
};

struct UpdateState {
  float *m, *v, *weights;
  uint16_t* compute;  // bfloat16 bits of the weights; may be null
};

// Squared norms (B) are written, not added to: the caller keeps a row for each part of a norm, NaN until it
// is written, so that a part that no kernel measured leaves its examples out.
class ExampleKernels {
 public:
  virtual ~ExampleKernels() = default;
  virtual Element element() const = 0;
  // The device and whose kernels these are: what times are kept under.
  virtual std::string name() const = 0;
  virtual bool has_gram_norms() const = 0;
  // Returns when all that was put on the queue is done.
  virtual void wait() = 0;
  // The examples of what follows; ids (N).
  virtual void set_examples(std::span<const int64_t> offsets, std::span<const int64_t> ids) = 0;

  // Vectors: gradients (B, n) f32 of contiguous rows (N, n); mean, rstd (N) f32.
  virtual void bias_gradient(const void* g, int64_t n, float* out) = 0;
  virtual void norm_layer_gradient(const void* g, const void* x, const float* mean, const float* rstd,
                                   int64_t n, float* gain, float* shift) = 0;
  virtual void vector_squares(const float* values, int64_t n, double* squares) = 0;
  virtual void add_integers(const float* values, int64_t n, const float* scales, int32_t* sum) = 0;

  // Embeddings: rows (groups(), n) f32, one for each distinct id of an example, examples one behind another,
  // ids ascending. Positions: row t of an example belongs to position t.
  virtual int64_t groups() const = 0;
  virtual void embedding_rows(const void* g, int64_t n, float* rows) = 0;
  virtual void token_row_squares(const float* rows, int64_t n, double* squares) = 0;
  virtual void add_row_integers(const float* rows, int64_t n, const float* scales, int32_t* table) = 0;
  virtual void position_squares(const void* g, int64_t n, double* squares) = 0;
  virtual void add_position_integers(const void* g, int64_t n, const float* scales, int64_t positions,
                                     int32_t* table) = 0;

  // Matrices, M of them, of the examples set before. gram_norms() measures those of method gram, up to the
  // rows of a tied table, which tied_norm() adds: |E + z^T h|^2 = |E|^2 + |z^T h|^2 + 2 <E, z^T h>.
  virtual void set_matrices(std::span<const ExampleMatrix> matrices) = 0;
  virtual void gram_norms() = 0;
  // terms (B) = <E, z^T h>, magnitudes (B): sums of the absolute values of what is added.
  virtual void cross_terms(const TiedTable& table, double* terms, double* magnitudes) = 0;
  virtual void tied_norm(const TiedTable& table, const double* terms, const double* magnitudes) = 0;
  // Measures what no certified Gram norm stands for, where selected (B), and keeps what is materialised;
  // squares: of all matrices.
  virtual void matrix_squares(const uint8_t* selected, double* squares) = 0;
  // After matrix_squares(); sum: the whole parameter vector's; scales are 0 where an example was not
  // selected.
  virtual void add_products(const float* scales, int32_t* sum) = 0;

  // squares (B) = the sum of parts (count, B), row after row.
  virtual void sum_parts(const double* parts, int64_t count, double* squares) = 0;
  // factors (B): clip_factor() of the norm where selected, else 0; scales: factor / 2^grid_exponent.
  virtual void clip_scales(const double* squares, const uint8_t* selected, Clipping clip, int grid_exponent,
                           double* factors, float* scales) = 0;

  // noise.h and AdamW in one pass over all parameters; the sum is left zero.
  virtual void release(const StreamKey& key, uint64_t draw, const NoiseSpec& spec, double scale,
                       const AdamwStep& step, int32_t* sum, const UpdateState& state) = 0;
  virtual void release(const StreamKey& key, uint64_t draw, const NoiseSpec& spec, double scale,
                       const AdamwStep& step, int64_t* sum, const UpdateState& state) = 0;
};

}  // namespace dpfa::kernels
