#include "src/model/gpt2.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/gelu.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "src/base/check.h"
#include "src/base/flat_buffer.h"
#include "src/base/plant.h"
#include "src/model/gpt2_weights_view.h"

namespace dpfa::model {
namespace {

constexpr double kLayerNormEpsilon = 1e-5;

// Activations of one layer that the backward pass reads, N rows each. It leaves the output gradients of the
// matrices where it has read for the last time: those of qkv and fc in `qkv` and `hidden`, that of the
// projection in `x2`.
struct LayerActivations {
  at::Tensor x, normed1, mean1, rstd1, qkv, attention;
  at::Tensor x2, normed2, mean2, rstd2, hidden, activated;
  kernels::AttentionState attention_state;
};
}  // namespace

struct Gpt2::State {
  plan::Gpt2Shape shape;
  at::ScalarType compute;
  Execution execution;
  std::vector<ParameterInfo> parameters;
  std::span<const float> master;
  at::Tensor flat;  // (P) in the compute type; for f32 a view of the master weights
  Gpt2Weights weights;

  // The last batch.
  BatchRows batch;
  std::vector<int64_t> records;
  std::vector<double> row_losses;
  std::optional<Dropout> dropout;

  // Workspace for `capacity` rows; the buffers own the memory that the tensors view.
  int64_t rows = 0, capacity = 0;
  std::vector<FlatBuffer<std::byte>> memory;
  size_t memory_used = 0;  // buffers that tensors view
  std::vector<LayerActivations> layers;
  std::vector<at::Tensor> output_gradients;  // of the MLP's output; one for all layers where not kept
  bool keeps_gradients = false;
  at::Tensor final_x, final_normed, final_mean, final_rstd, logits;
  at::Tensor residual_gradient, scratch, wide_scratch;

  at::Tensor allocate(std::vector<int64_t> dims, at::ScalarType dtype);
  void make_workspace(int64_t largest);
  LayerActivations make_activations();
  void make_gradients(bool keep);
  void drop(int64_t site, at::Tensor& x) const;
  void embed();
  kernels::AttentionShape attention_shape() const;
  // Writes the layer's result to *out; nullptr: up to what the backward pass needs.
  void layer_forward(int64_t l, at::Tensor* out);
  void layer_backward(int64_t l, GradientVisitor& visitor);
  void attention_backward(LayerActivations& a);
};

// Rows first. The memory of tensors of a smaller batch is kept for a larger one.
at::Tensor Gpt2::State::allocate(std::vector<int64_t> dims, at::ScalarType dtype) {
  int64_t elements = capacity;
  for (size_t k = 1; k < dims.size(); ++k) elements *= dims[k];
  const int64_t bytes = elements * static_cast<int64_t>(c10::elementSize(dtype));
  if (memory_used == memory.size()) memory.emplace_back();
  FlatBuffer<std::byte>& buffer = memory[memory_used++];
  if (buffer.size() < bytes) {
    buffer = {};
    buffer = FlatBuffer<std::byte>(bytes);
  }
  return at::from_blob(buffer.data(), dims, at::TensorOptions().dtype(dtype));
}

LayerActivations Gpt2::State::make_activations() {
  const int64_t n = rows, c = shape.width;
  const at::ScalarType stat = compute == at::kDouble ? at::kDouble : at::kFloat;
  LayerActivations a;
  a.normed1 = allocate({n, c}, compute);
  a.mean1 = allocate({n}, stat);
  a.rstd1 = allocate({n}, stat);
  a.qkv = allocate({n, 3 * c}, compute);
  a.attention = allocate({n, c}, compute);
  a.x2 = allocate({n, c}, compute);
  a.normed2 = allocate({n, c}, compute);
  a.mean2 = allocate({n}, stat);
  a.rstd2 = allocate({n}, stat);
  a.hidden = allocate({n, 4 * c}, compute);
  a.activated = allocate({n, 4 * c}, compute);
  return a;
}

// `largest`: rows that a batch of this many slots and tokens may have.
void Gpt2::State::make_workspace(int64_t largest) {
  if (batch.count() == rows && largest <= capacity) return;
  rows = batch.count();
  if (largest > capacity) memory.clear();
  capacity = std::max(capacity, largest);
  memory_used = 0;
  output_gradients.clear();
  const int64_t n = rows, c = shape.width;
  const at::ScalarType stat = compute == at::kDouble ? at::kDouble : at::kFloat;
  layers.clear();
  for (int64_t l = 0; l < shape.layers; ++l) {
    layers.push_back(l > 0 && execution.recompute_layers ? layers[0] : make_activations());
    layers.back().x = allocate({n, c}, compute);
  }
  final_x = allocate({n, c}, compute);
  final_normed = allocate({n, c}, compute);
  final_mean = allocate({n}, stat);
  final_rstd = allocate({n}, stat);
  logits = allocate({n, shape.vocab}, compute);
  residual_gradient = allocate({n, c}, compute);
  scratch = allocate({n, c}, compute);
  wide_scratch = allocate({n, 4 * c}, compute);
}

void Gpt2::State::make_gradients(bool keep) {
  keeps_gradients = keep;
  while (output_gradients.size() < (keep ? static_cast<size_t>(shape.layers) : 1))
    output_gradients.push_back(allocate({rows, shape.width}, compute));
}

void Gpt2::State::drop(int64_t site, at::Tensor& x) const {
  if (!dropout || dropout->rate == 0) return;
  kernels::apply_dropout({dropout->rate, dropout->key, dropout->step, site, records, batch.offsets}, x);
}

void Gpt2::State::embed() {
  at::Tensor& x = shape.layers > 0 ? layers[0].x : final_x;
  at::index_select_out(x, weights.tokens, 0,
                       at::from_blob(batch.ids.data(), {rows}, at::TensorOptions().dtype(at::kLong)));
  for (size_t b = 0; b + 1 < batch.offsets.size(); ++b) {
    const int64_t length = batch.offsets[b + 1] - batch.offsets[b];
    x.narrow(0, batch.offsets[b], length).add_(weights.positions.narrow(0, 0, length));
  }
  drop(0, x);
}

kernels::AttentionShape Gpt2::State::attention_shape() const {
  return {batch.offsets, shape.heads, shape.heads, shape.width / shape.heads, /*causal=*/true};
}

void Gpt2::State::layer_forward(int64_t l, at::Tensor* out) {
  LayerActivations& a = layers[l];
  const Gpt2LayerWeights& w = weights.layers[l];
  const int64_t c = shape.width;
  kernels::layer_norm(a.x, w.ln1_gain, w.ln1_shift, kLayerNormEpsilon, a.normed1, a.mean1, a.rstd1);
  kernels::multiply(a.normed1, w.qkv, a.qkv, w.qkv_bias);
  kernels::attention(attention_shape(), execution.attention, a.qkv.narrow(1, 0, c), a.qkv.narrow(1, c, c),
                     a.qkv.narrow(1, 2 * c, c), a.attention, a.attention_state);
  kernels::multiply(a.attention, w.projection, a.x2, w.projection_bias);
  drop(1 + 2 * l, a.x2);
  a.x2.add_(a.x);
  kernels::layer_norm(a.x2, w.ln2_gain, w.ln2_shift, kLayerNormEpsilon, a.normed2, a.mean2, a.rstd2);
  kernels::multiply(a.normed2, w.fc, a.hidden, w.fc_bias);
  kernels::gelu(a.hidden, a.activated);
  if (out == nullptr) return;
  kernels::multiply(a.activated, w.output, *out, w.output_bias);
  drop(2 + 2 * l, *out);
  out->add_(a.x2);
}

void Gpt2::State::attention_backward(LayerActivations& a) {
  const int64_t c = shape.width;
  at::Tensor q = a.qkv.narrow(1, 0, c), k = a.qkv.narrow(1, c, c), v = a.qkv.narrow(1, 2 * c, c);
  kernels::attention_backward(attention_shape(), execution.attention, scratch, q, k, v, a.attention,
                              a.attention_state, q, k, v);
}

void Gpt2::State::layer_backward(int64_t l, GradientVisitor& visitor) {
  if (execution.recompute_layers) layer_forward(l, nullptr);
  LayerActivations& a = layers[l];
  const Gpt2LayerWeights& w = weights.layers[l];
  at::Tensor& output = output_gradients[keeps_gradients ? l : 0];
  const auto offset = [&](int k) { return parameters[2 + 12 * l + k].offset; };

  output.copy_(residual_gradient);
  drop(2 + 2 * l, output);
  visitor.linear({a.activated, output, offset(10), false}, offset(11));
  kernels::multiply(output, w.output.t(), wide_scratch);
  kernels::gelu_gradient(wide_scratch, a.hidden, a.hidden);
  visitor.linear({a.normed2, a.hidden, offset(8), false}, offset(9));
  kernels::multiply(a.hidden, w.fc.t(), scratch);
  visitor.layer_norm(scratch, a.x2, a.mean2, a.rstd2, offset(6), offset(7));
  kernels::layer_norm_input_gradient(scratch, a.x2, w.ln2_gain, a.mean2, a.rstd2, true, residual_gradient);

  a.x2.copy_(residual_gradient);
  drop(1 + 2 * l, a.x2);
  visitor.linear({a.attention, a.x2, offset(4), false}, offset(5));
  kernels::multiply(a.x2, w.projection.t(), scratch);
  attention_backward(a);
  visitor.linear({a.normed1, a.qkv, offset(2), false}, offset(3));
  kernels::multiply(a.qkv, w.qkv.t(), scratch);
  visitor.layer_norm(scratch, a.x, a.mean1, a.rstd1, offset(0), offset(1));
  kernels::layer_norm_input_gradient(scratch, a.x, w.ln1_gain, a.mean1, a.rstd1, true, residual_gradient);
}

Gpt2::Gpt2(const plan::Gpt2Shape& shape, at::ScalarType compute, const Execution& execution)
    : state_(std::make_unique<State>()) {
  state_->shape = shape;
  state_->compute = compute;
  state_->execution = execution;
  state_->parameters = gpt2_parameters(shape);
}

Gpt2::~Gpt2() = default;

const plan::Gpt2Shape& Gpt2::shape() const { return state_->shape; }
std::span<const int64_t> Gpt2::offsets() const { return state_->batch.offsets; }
at::ScalarType Gpt2::compute() const { return state_->compute; }
const Execution& Gpt2::execution() const { return state_->execution; }

void Gpt2::bind(std::span<const float> parameters) {
  DPFA_CHECK(static_cast<int64_t>(parameters.size()) == state_->shape.parameter_count());
  State& s = *state_;
  s.master = parameters;
  const int64_t size = static_cast<int64_t>(parameters.size());
  if (s.compute == at::kFloat) {
    s.flat =
        at::from_blob(const_cast<float*>(parameters.data()), {size}, at::TensorOptions().dtype(at::kFloat));
  } else {
    s.flat = at::empty({size}, at::TensorOptions().dtype(s.compute));
  }
  s.weights = view_gpt2_weights(s.shape, s.parameters, s.flat);
  weights_changed();
}

void Gpt2::weights_changed() {
  State& s = *state_;
  if (s.compute == at::kFloat) return;
  s.flat.copy_(at::from_blob(const_cast<float*>(s.master.data()), {s.flat.size(0)},
                             at::TensorOptions().dtype(at::kFloat)));
}

std::span<uint16_t> Gpt2::bf16_weights() {
  if (state_->compute != at::kBFloat16) return {};
  return {reinterpret_cast<uint16_t*>(state_->flat.data_ptr<c10::BFloat16>()),
          static_cast<size_t>(state_->flat.size(0))};
}

void Gpt2::forward(const Batch& batch, const Dropout* dropout, bool for_backward, std::span<double> losses) {
  c10::InferenceMode guard;
  State& s = *state_;
  DPFA_CHECK(batch.tokens <= s.shape.positions, batch.tokens, " tokens, ", s.shape.positions, " positions");
  std::fill(losses.begin(), losses.end(), 0.0);
  s.batch.assign(batch);
  s.row_losses.assign(s.batch.count(), 0);
  s.records.assign(batch.records.begin(), batch.records.end());
  if (s.batch.count() == 0) return;
  s.make_workspace(batch.examples * batch.tokens);
  s.dropout.reset();
  if (dropout != nullptr) s.dropout.emplace(*dropout);
  s.embed();
  for (int64_t l = 0; l < s.shape.layers; ++l)
    s.layer_forward(l, l + 1 < s.shape.layers ? &s.layers[l + 1].x : &s.final_x);
  kernels::layer_norm(s.final_x, s.weights.final_gain, s.weights.final_shift, kLayerNormEpsilon,
                      s.final_normed, s.final_mean, s.final_rstd);
  kernels::multiply(s.final_normed, s.weights.head.t(), s.logits);
  // The planted mistake of a product that takes another kernel for the rows behind the first example.
  if (DPFA_PLANT("slot_dependent_product")) s.logits.slice(0, s.batch.offsets[1]).mul_(1 + 0x1p-7);
  if (for_backward)
    kernels::cross_entropy_in_place(s.logits, s.batch.targets, s.batch.loss_weights, s.row_losses,
                                    batch.every_row);
  else
    kernels::cross_entropy(s.logits, s.batch.targets, s.batch.loss_weights, s.row_losses);
  for (int64_t b = 0; b < batch.examples; ++b)
    for (int64_t i = s.batch.offsets[b]; i < s.batch.offsets[b + 1]; ++i) losses[b] += s.row_losses[i];
}

void Gpt2::backward(bool keep_gradients, GradientVisitor& visitor) {
  c10::InferenceMode guard;
  State& s = *state_;
  DPFA_CHECK(s.batch.count() > 0 && !(keep_gradients && s.execution.recompute_layers));
  s.make_gradients(keep_gradients);
  const int64_t head_offset = s.shape.tied_head ? s.parameters[0].offset : s.parameters.back().offset;
  visitor.linear({s.final_normed, s.logits, head_offset, true}, std::nullopt);
  kernels::multiply(s.logits, s.weights.head, s.scratch);
  const size_t final_norm = 2 + 12 * static_cast<size_t>(s.shape.layers);
  visitor.layer_norm(s.scratch, s.final_x, s.final_mean, s.final_rstd, s.parameters[final_norm].offset,
                     s.parameters[final_norm + 1].offset);
  kernels::layer_norm_input_gradient(s.scratch, s.final_x, s.weights.final_gain, s.final_mean, s.final_rstd,
                                     false, s.residual_gradient);
  for (int64_t l = s.shape.layers - 1; l >= 0; --l) s.layer_backward(l, visitor);
  s.drop(0, s.residual_gradient);
  visitor.embedding({s.batch.ids, s.residual_gradient, s.parameters[0].offset, s.parameters[1].offset,
                     s.shape.tied_head ? std::optional<size_t>(0) : std::nullopt});
}

std::vector<float> Gpt2::next_token_logits(std::span<const int64_t> ids) {
  const int64_t tokens = static_cast<int64_t>(ids.size());
  const std::vector<int64_t> targets(ids.size(), -1), records = {0};
  const std::vector<double> weights = {1};
  double loss = 0;
  forward({1, tokens, ids, targets, weights, records}, nullptr, false, std::span<double>(&loss, 1));
  const at::Tensor last = state_->logits[tokens - 1].to(at::kFloat);
  return {last.const_data_ptr<float>(), last.const_data_ptr<float>() + state_->shape.vocab};
}

}  // namespace dpfa::model
