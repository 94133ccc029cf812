#include "src/model/gpt2.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <cmath>

#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "src/base/check.h"
#include "src/base/flat_buffer.h"
#include "src/model/gpt2_weights_view.h"

namespace dpfa::model {
namespace {

constexpr double kLayerNormEpsilon = 1e-5;

// Activations of one layer that the backward pass reads. N = B*T rows.
struct LayerActivations {
  at::Tensor x, normed1, mean1, rstd1, qkv, attention, attention_rows, logsumexp;
  at::Tensor x2, normed2, mean2, rstd2, hidden, activated;
};
// Output gradients of one layer's four matrices.
struct LayerGradients {
  at::Tensor qkv, projection, hidden, output;
};

}  // namespace

struct Gpt2::State {
  plan::Gpt2Shape shape;
  at::ScalarType compute;
  std::vector<ParameterInfo> parameters;
  std::span<const float> master;
  at::Tensor flat;  // (P) in the compute type; for f32 a view of the master weights
  Gpt2Weights weights;

  // Workspace for the largest (B, T) met so far; the buffers own the memory that the tensors view.
  int64_t examples = 0, tokens = 0;
  bool keeps_gradients = false;
  std::vector<FlatBuffer<std::byte>> memory;
  std::vector<LayerActivations> layers;
  std::vector<LayerGradients> gradients;  // one per layer, or one shared by all
  at::Tensor final_x, final_normed, final_mean, final_rstd, logits;
  at::Tensor residual_gradient, scratch, wide_scratch;
  std::vector<double> row_weights, row_losses;
  std::optional<Dropout> dropout;
  std::vector<int64_t> records;

  at::Tensor allocate(std::vector<int64_t> dims, at::ScalarType dtype) {
    int64_t elements = 1;
    for (int64_t d : dims) elements *= d;
    memory.emplace_back(elements * static_cast<int64_t>(c10::elementSize(dtype)));
    return at::from_blob(memory.back().data(), dims, at::TensorOptions().dtype(dtype));
  }
  void make_workspace(int64_t b, int64_t t);
  void make_gradients(bool keep);
  void drop(int64_t site, at::Tensor& x) const;
  void embed(const Batch& batch);
  void layer_forward(int64_t l, at::Tensor& out);
  void layer_backward(int64_t l, GradientVisitor& visitor);
};

void Gpt2::State::make_workspace(int64_t b, int64_t t) {
  if (b == examples && t == tokens) return;
  examples = b;
  tokens = t;
  memory.clear();
  gradients.clear();
  const int64_t n = b * t, c = shape.width;
  const at::ScalarType stat = compute == at::kDouble ? at::kDouble : at::kFloat;
  layers.assign(shape.layers, {});
  for (LayerActivations& a : layers) {
    a.x = allocate({n, c}, compute);
    a.normed1 = allocate({n, c}, compute);
    a.mean1 = allocate({n}, stat);
    a.rstd1 = allocate({n}, stat);
    a.qkv = allocate({n, 3 * c}, compute);
    a.x2 = allocate({n, c}, compute);
    a.normed2 = allocate({n, c}, compute);
    a.mean2 = allocate({n}, stat);
    a.rstd2 = allocate({n}, stat);
    a.hidden = allocate({n, 4 * c}, compute);
    a.activated = allocate({n, 4 * c}, compute);
  }
  final_x = allocate({n, c}, compute);
  final_normed = allocate({n, c}, compute);
  final_mean = allocate({n}, stat);
  final_rstd = allocate({n}, stat);
  logits = allocate({n, shape.vocab}, compute);
  residual_gradient = allocate({n, c}, compute);
  scratch = allocate({n, c}, compute);
  wide_scratch = allocate({n, 4 * c}, compute);
  row_weights.assign(n, 0);
  row_losses.assign(n, 0);
}

void Gpt2::State::make_gradients(bool keep) {
  if (!gradients.empty() && keep == keeps_gradients) return;
  keeps_gradients = keep;
  const int64_t n = examples * tokens, c = shape.width;
  gradients.assign(keep ? shape.layers : 1, {});
  for (LayerGradients& g : gradients) {
    g.qkv = allocate({n, 3 * c}, compute);
    g.projection = allocate({n, c}, compute);
    g.hidden = allocate({n, 4 * c}, compute);
    g.output = allocate({n, c}, compute);
  }
}

void Gpt2::State::drop(int64_t site, at::Tensor& x) const {
  if (!dropout || dropout->rate == 0) return;
  kernels::apply_dropout({dropout->rate, dropout->key, dropout->step, site, records}, x);
}

void Gpt2::State::embed(const Batch& batch) {
  const int64_t c = shape.width;
  const at::Tensor ids = at::from_blob(const_cast<int64_t*>(batch.input_ids.data()), {examples * tokens},
                                       at::TensorOptions().dtype(at::kLong));
  at::Tensor& x = shape.layers > 0 ? layers[0].x : final_x;
  at::index_select_out(x, weights.tokens, 0, ids);
  x.view({examples, tokens, c}).add_(weights.positions.narrow(0, 0, tokens));
  drop(0, x);
}

void Gpt2::State::layer_forward(int64_t l, at::Tensor& out) {
  LayerActivations& a = layers[l];
  const Gpt2LayerWeights& w = weights.layers[l];
  const int64_t n = examples * tokens, c = shape.width, heads = shape.heads;
  kernels::layer_norm(a.x, w.ln1_gain, w.ln1_shift, kLayerNormEpsilon, a.normed1, a.mean1, a.rstd1);
  kernels::multiply(a.normed1, w.qkv, a.qkv, w.qkv_bias);
  const at::Tensor split = a.qkv.view({examples, tokens, 3, heads, c / heads});
  std::tie(a.attention, a.logsumexp) = at::_scaled_dot_product_flash_attention_for_cpu(
      split.select(2, 0).transpose(1, 2), split.select(2, 1).transpose(1, 2),
      split.select(2, 2).transpose(1, 2), 0.0, /*is_causal=*/true);
  a.attention_rows = a.attention.transpose(1, 2).reshape({n, c});
  kernels::multiply(a.attention_rows, w.projection, a.x2, w.projection_bias);
  drop(1 + 2 * l, a.x2);
  a.x2.add_(a.x);
  kernels::layer_norm(a.x2, w.ln2_gain, w.ln2_shift, kLayerNormEpsilon, a.normed2, a.mean2, a.rstd2);
  kernels::multiply(a.normed2, w.fc, a.hidden, w.fc_bias);
  at::gelu_out(a.activated, a.hidden, "tanh");
  kernels::multiply(a.activated, w.output, out, w.output_bias);
  drop(2 + 2 * l, out);
  out.add_(a.x2);
}

void Gpt2::State::layer_backward(int64_t l, GradientVisitor& visitor) {
  LayerActivations& a = layers[l];
  const Gpt2LayerWeights& w = weights.layers[l];
  LayerGradients& g = gradients[keeps_gradients ? l : 0];
  const int64_t n = examples * tokens, c = shape.width, heads = shape.heads;
  const auto offset = [&](int k) { return parameters[2 + 12 * l + k].offset; };

  g.output.copy_(residual_gradient);
  drop(2 + 2 * l, g.output);
  visitor.linear({a.activated, g.output, offset(10), false}, offset(11));
  kernels::multiply(g.output, w.output.t(), wide_scratch);
  at::gelu_backward_out(g.hidden, wide_scratch, a.hidden, "tanh");
  visitor.linear({a.normed2, g.hidden, offset(8), false}, offset(9));
  kernels::multiply(g.hidden, w.fc.t(), scratch);
  visitor.layer_norm(scratch, a.x2, a.mean2, a.rstd2, offset(6), offset(7));
  kernels::layer_norm_input_gradient(scratch, a.x2, w.ln2_gain, a.mean2, a.rstd2, true, residual_gradient);

  g.projection.copy_(residual_gradient);
  drop(1 + 2 * l, g.projection);
  visitor.linear({a.attention_rows, g.projection, offset(4), false}, offset(5));
  kernels::multiply(g.projection, w.projection.t(), scratch);
  const at::Tensor split = a.qkv.view({examples, tokens, 3, heads, c / heads});
  const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      scratch.view({examples, tokens, heads, c / heads}).transpose(1, 2), split.select(2, 0).transpose(1, 2),
      split.select(2, 1).transpose(1, 2), split.select(2, 2).transpose(1, 2), a.attention, a.logsumexp, 0.0,
      /*is_causal=*/true);
  const at::Tensor target = g.qkv.view({examples, tokens, 3, heads, c / heads});
  target.select(2, 0).copy_(dq.transpose(1, 2));
  target.select(2, 1).copy_(dk.transpose(1, 2));
  target.select(2, 2).copy_(dv.transpose(1, 2));
  visitor.linear({a.normed1, g.qkv, offset(2), false}, offset(3));
  kernels::multiply(g.qkv, w.qkv.t(), scratch);
  visitor.layer_norm(scratch, a.x, a.mean1, a.rstd1, offset(0), offset(1));
  kernels::layer_norm_input_gradient(scratch, a.x, w.ln1_gain, a.mean1, a.rstd1, true, residual_gradient);
  DPFA_CHECK(n == residual_gradient.size(0));
}

Gpt2::Gpt2(const plan::Gpt2Shape& shape, at::ScalarType compute) : state_(std::make_unique<State>()) {
  state_->shape = shape;
  state_->compute = compute;
  state_->parameters = gpt2_parameters(shape);
}

Gpt2::~Gpt2() = default;

const plan::Gpt2Shape& Gpt2::shape() const { return state_->shape; }

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
  if (batch.examples == 0 || batch.tokens == 0) return;
  s.make_workspace(batch.examples, batch.tokens);
  s.dropout.reset();
  if (dropout != nullptr) s.dropout.emplace(*dropout);
  s.records.assign(batch.records.begin(), batch.records.end());
  s.embed(batch);
  for (int64_t l = 0; l < s.shape.layers; ++l)
    s.layer_forward(l, l + 1 < s.shape.layers ? s.layers[l + 1].x : s.final_x);
  kernels::layer_norm(s.final_x, s.weights.final_gain, s.weights.final_shift, kLayerNormEpsilon,
                      s.final_normed, s.final_mean, s.final_rstd);
  kernels::multiply(s.final_normed, s.weights.head.t(), s.logits);
  for (int64_t i = 0; i < batch.examples * batch.tokens; ++i)
    s.row_weights[i] = batch.loss_weights[i / batch.tokens];
  if (for_backward)
    kernels::cross_entropy_in_place(s.logits, batch.targets, s.row_weights, s.row_losses);
  else
    kernels::cross_entropy(s.logits, batch.targets, s.row_weights, s.row_losses);
  for (int64_t i = 0; i < batch.examples * batch.tokens; ++i) losses[i / batch.tokens] += s.row_losses[i];
}

void Gpt2::backward(std::span<const int64_t> input_ids, bool keep_gradients, GradientVisitor& visitor) {
  c10::InferenceMode guard;
  State& s = *state_;
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
  visitor.embedding({input_ids, s.residual_gradient, s.parameters[0].offset, s.parameters[1].offset,
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
