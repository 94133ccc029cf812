// GPT-2 with an explicit backward pass that serves per-example gradients.
//
// Parameters live in one flat f32 vector in Hugging Face's order, layout and names (Conv1D weights stored
// (in, out)), so that the optimizer, the clipped sum and checkpoints need no translation. The forward pass
// returns one loss per example; no layer mixes examples. B examples of at most T tokens, C width, V
// vocabulary, N rows: the examples' tokens one behind another.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/optimizer_step.h"
#include "kernels/records.h"
#include "src/base/stream_key.h"
#include "src/model/batch.h"
#include "src/plan/model_shape.h"

namespace dpfa::model {

struct ParameterInfo {
  std::string name;  // Hugging Face's, e.g. "transformer.h.0.attn.c_attn.weight"
  std::vector<int64_t> shape;
  int64_t offset;
  int64_t size;
  bool decays;  // weight decay applies to matrices only
};
// All trainable parameters in order; their sizes add up to shape.parameter_count(). A tied head has no entry.
std::vector<ParameterInfo> gpt2_parameters(const plan::Gpt2Shape& shape);
// The parameters as runs of one weight-decay setting, for an optimizer.
std::vector<kernels::DecayRange> decay_ranges(const std::vector<ParameterInfo>& parameters);

// GPT-2's own initialisation: N(0, 0.02^2), residual projections divided by sqrt(2 L), gains 1, biases 0.
void initialise_gpt2(const plan::Gpt2Shape& shape, const StreamKey& key, std::span<float> parameters);

// How a model runs. Nothing here changes what it computes, up to the rounding of another order of sums.
struct Execution {
  kernels::AttentionPath attention = kernels::AttentionPath::kFlash;
  // Keep the inputs of layers alone and run each layer's forward pass again before its backward pass.
  bool recompute_layers = false;
};

// Masks of the embedding and residual sites: a function of (key, step, record, site, position) alone.
struct Dropout {
  double rate = 0;
  StreamKey key;
  int64_t step = 0;
};

// Receives each parameter's ingredients as the backward pass produces them, last layer first. Tensors given
// to a visitor that keeps them stay valid until the next forward pass.
class GradientVisitor {
 public:
  virtual ~GradientVisitor() = default;
  virtual void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) = 0;
  virtual void layer_norm(const at::Tensor& output_gradient, const at::Tensor& input, const at::Tensor& mean,
                          const at::Tensor& rstd, int64_t gain_offset, int64_t shift_offset) = 0;
  virtual void embedding(const kernels::EmbeddingRecord& record) = 0;
};

class Gpt2 {
 public:
  // `compute`: kFloat, kBFloat16 or kDouble (tests).
  Gpt2(const plan::Gpt2Shape& shape, at::ScalarType compute, const Execution& execution = {});
  ~Gpt2();

  const plan::Gpt2Shape& shape() const;
  at::ScalarType compute() const;
  const Execution& execution() const;
  // Uses `parameters` (P) from now on: f32 compute reads them in place, other types from a copy that
  // weights_changed() refreshes.
  void bind(std::span<const float> parameters);
  void weights_changed();
  // Where compute is bf16: the copy (P), for an optimizer that writes it itself; empty otherwise.
  std::span<uint16_t> bf16_weights();

  // losses (B): the weighted sum of each example's target cross-entropies. With `for_backward` the logits are
  // replaced by their gradient and activations are kept.
  void forward(const Batch& batch, const Dropout* dropout, bool for_backward, std::span<double> losses);
  // After forward(for_backward = true) on a batch with at least one row, once: gradients take the place of
  // activations; again and again where layers are recomputed. keep_gradients: records stay valid until the
  // next pass; not where layers are recomputed.
  void backward(bool keep_gradients, GradientVisitor& visitor);
  // The rows of the last forward pass: example b's are [offsets[b], offsets[b + 1]).
  std::span<const int64_t> offsets() const;

  // Logits (V) of the token that follows `ids` (1 to positions of them).
  std::vector<float> next_token_logits(std::span<const int64_t> ids);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The visitor of the per-example routes: keeps everything.
kernels::GradientRecords collect_records(Gpt2& model);

// Gives the same records to `visit` in parts, one layer's at a time, each valid during its call: for models
// that recompute their layers. Together the parts hold every parameter once; a matrix or none in each, the
// embedding beside the head. Every call makes a backward pass of its own with the same bits.
using RecordVisitor = std::function<void(const kernels::GradientRecords&)>;
void visit_records(Gpt2& model, const RecordVisitor& visit);

// How the gradient of a matrix is formed over all rows of a batch: in one product by all threads, or panel by
// panel, each added by one thread while it is in its cache. Which is faster depends on shapes and processor.
enum class BatchProducts : uint8_t { kWhole, kPanels };

// The visitor of runs without privacy: adds (or with `overwrite` writes) the gradient of the sum of the
// batch's losses to `gradient` (P).
void add_batch_gradient(Gpt2& model, bool overwrite, std::span<float> gradient,
                        BatchProducts products = BatchProducts::kWhole);

}  // namespace dpfa::model
