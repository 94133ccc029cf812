#include "src/device/gpt2.h"

#include <c10/core/InferenceMode.h>

#include <cstdlib>
#include <vector>

#include "kernels/attention.h"
#include "src/base/check.h"
#include "src/base/plant.h"
#include "src/device/cross_entropy.h"
#include "src/device/upload.h"
#include "src/model/gpt2_weights_view.h"

namespace dpfa::device {
namespace {

constexpr double kLayerNormEpsilon = 1e-5;
constexpr int64_t kLogitMultiple = 64;  // columns of a row of logits: tensor cores and TMA want aligned rows

struct Normed {
  at::Tensor y, mean, rstd;
};

struct LayerActivations {
  at::Tensor x, qkv, attention, x2, hidden, activated;
  Normed first, second;
  kernels::AttentionState attention_state;
};

Normed layer_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& shift) {
  Normed result;
  std::tie(result.y, result.mean, result.rstd) =
      at::native_layer_norm(x, {x.size(1)}, gain, shift, kLayerNormEpsilon);
  return result;
}

at::Tensor layer_norm_input_gradient(const at::Tensor& g, const at::Tensor& x, const Normed& normed,
                                     const at::Tensor& gain, const at::Tensor& shift) {
  return std::get<0>(at::native_layer_norm_backward(g, x, {x.size(1)}, normed.mean, normed.rstd, gain, shift,
                                                    {true, false, false}));
}

int64_t head_offset(const plan::Gpt2Shape& shape, const std::vector<model::ParameterInfo>& parameters) {
  return shape.tied_head ? parameters[0].offset : parameters.back().offset;
}

// (N), in the type that reducers read: LibTorch's kernel for CPUs leaves bf16 statistics in bf16.
at::Tensor statistic(const at::Tensor& values) {
  return values.flatten().to(values.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

}  // namespace

struct Gpt2::State {
  State(const plan::Gpt2Shape& model_shape, at::ScalarType type, at::Device where, bool recomputes)
      : shape(model_shape),
        compute(type),
        device(where),
        recompute_layers(recomputes),
        parameters(model::gpt2_parameters(shape)) {}

  plan::Gpt2Shape shape;
  at::ScalarType compute;
  at::Device device;
  bool recompute_layers;
  std::vector<model::ParameterInfo> parameters;
  model::Gpt2Weights weights;

  model::BatchRows batch;
  std::vector<LayerActivations> layers;  // their inputs alone where the rest is recomputed
  at::Tensor final_x, logits_memory, logits;
  Normed final_normed;

  at::Tensor embed() const;
  void make_logits();
  kernels::AttentionShape attention_shape() const {
    return {batch.offsets, shape.heads, shape.heads, shape.width / shape.heads, /*causal=*/true};
  }
  // All of a layer but its output.
  LayerActivations activate(int64_t l, const at::Tensor& x) const;
  at::Tensor layer_forward(int64_t l, const at::Tensor& x);
  at::Tensor layer_backward(int64_t l, const at::Tensor& output_gradient, model::GradientVisitor& visitor);
  at::Tensor attention_backward(const LayerActivations& a, const at::Tensor& g) const;
};

at::Tensor Gpt2::State::embed() const {
  std::vector<int64_t> positions;
  for (size_t b = 0; b + 1 < batch.offsets.size(); ++b)
    for (int64_t t = 0; t < batch.offsets[b + 1] - batch.offsets[b]; ++t) positions.push_back(t);
  return at::index_select(weights.tokens, 0, upload<int64_t>(batch.ids, device))
      .add_(at::index_select(weights.positions, 0, upload<int64_t>(positions, device)));
}

void Gpt2::State::make_logits() {
  const int64_t rows = batch.count(),
                columns = (shape.vocab + kLogitMultiple - 1) / kLogitMultiple * kLogitMultiple;
  if (!logits_memory.defined() || logits_memory.size(0) < rows)
    logits_memory = at::empty({rows, columns}, weights.head.options());
  logits = logits_memory.narrow(0, 0, rows).narrow(1, 0, shape.vocab);
}

LayerActivations Gpt2::State::activate(int64_t l, const at::Tensor& x) const {
  LayerActivations a;
  const model::Gpt2LayerWeights& w = weights.layers[l];
  const int64_t c = shape.width;
  a.x = x;
  a.first = layer_norm(x, w.ln1_gain, w.ln1_shift);
  a.qkv = at::addmm(w.qkv_bias, a.first.y, w.qkv);
  a.attention = at::empty_like(x);
  kernels::attention(attention_shape(), kernels::AttentionPath::kFlash, a.qkv.narrow(1, 0, c),
                     a.qkv.narrow(1, c, c), a.qkv.narrow(1, 2 * c, c), a.attention, a.attention_state);
  a.x2 = at::addmm(w.projection_bias, a.attention, w.projection).add_(x);
  a.second = layer_norm(a.x2, w.ln2_gain, w.ln2_shift);
  a.hidden = at::addmm(w.fc_bias, a.second.y, w.fc);
  a.activated = at::gelu(a.hidden, "tanh");
  return a;
}

at::Tensor Gpt2::State::layer_forward(int64_t l, const at::Tensor& x) {
  LayerActivations a = activate(l, x);
  const at::Tensor out = at::addmm(weights.layers[l].output_bias, a.activated, weights.layers[l].output);
  out.add_(a.x2);
  if (recompute_layers)
    layers[l].x = x;
  else
    layers[l] = std::move(a);
  return out;
}

at::Tensor Gpt2::State::attention_backward(const LayerActivations& a, const at::Tensor& g) const {
  const int64_t c = shape.width;
  const auto part = [c](const at::Tensor& qkv, int64_t k) { return qkv.narrow(1, k * c, c); };
  const at::Tensor gradient = at::empty_like(a.qkv);
  at::Tensor dq = part(gradient, 0), dk = part(gradient, 1), dv = part(gradient, 2);
  kernels::attention_backward(attention_shape(), kernels::AttentionPath::kFlash, g, part(a.qkv, 0),
                              part(a.qkv, 1), part(a.qkv, 2), a.attention, a.attention_state, dq, dk, dv);
  return gradient;
}

// Takes the gradient of the layer's output, returns that of its input. Activations go as soon as they are
// read for the last time; what a record holds stays with the visitor.
at::Tensor Gpt2::State::layer_backward(int64_t l, const at::Tensor& output_gradient,
                                       model::GradientVisitor& visitor) {
  LayerActivations a = recompute_layers ? activate(l, layers[l].x) : std::move(layers[l]);
  const model::Gpt2LayerWeights& w = weights.layers[l];
  const auto offset = [&](int k) { return parameters[2 + 12 * l + k].offset; };

  visitor.linear({a.activated, output_gradient, offset(10), false}, offset(11));
  at::Tensor g = at::gelu_backward(at::mm(output_gradient, w.output.t()), a.hidden, "tanh");
  a.hidden.reset();
  visitor.linear({a.second.y, g, offset(8), false}, offset(9));
  g = at::mm(g, w.fc.t());
  visitor.layer_norm(g, a.x2, statistic(a.second.mean), statistic(a.second.rstd), offset(6), offset(7));
  const at::Tensor x2_gradient =
      layer_norm_input_gradient(g, a.x2, a.second, w.ln2_gain, w.ln2_shift).add_(output_gradient);

  visitor.linear({a.attention, x2_gradient, offset(4), false}, offset(5));
  g = attention_backward(a, at::mm(x2_gradient, w.projection.t()));
  visitor.linear({a.first.y, g, offset(2), false}, offset(3));
  g = at::mm(g, w.qkv.t());
  visitor.layer_norm(g, a.x, statistic(a.first.mean), statistic(a.first.rstd), offset(0), offset(1));
  return layer_norm_input_gradient(g, a.x, a.first, w.ln1_gain, w.ln1_shift).add_(x2_gradient);
}

std::vector<MatrixParameter> matrices_of(const plan::Gpt2Shape& shape) {
  const std::vector<model::ParameterInfo> parameters = model::gpt2_parameters(shape);
  const int64_t c = shape.width;
  std::vector<MatrixParameter> matrices = {
      {head_offset(shape, parameters), c, shape.vocab, true, shape.tied_head}};
  for (int64_t l = shape.layers - 1; l >= 0; --l) {
    const auto offset = [&](int k) { return parameters[2 + 12 * l + k].offset; };
    matrices.push_back({offset(10), 4 * c, c, false});
    matrices.push_back({offset(8), c, 4 * c, false});
    matrices.push_back({offset(4), c, c, false});
    matrices.push_back({offset(2), c, 3 * c, false});
  }
  return matrices;
}

void use_repeatable_operations() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // without it LibTorch then refuses products
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

Gpt2::Gpt2(const plan::Gpt2Shape& shape, at::ScalarType compute, at::Device device, bool recompute_layers)
    : state_(std::make_unique<State>(shape, compute, device, recompute_layers)) {
  DPFA_CHECK(compute == at::kFloat || compute == at::kBFloat16 || (compute == at::kDouble && device.is_cpu()),
             c10::toString(compute));
}

Gpt2::~Gpt2() = default;

const plan::Gpt2Shape& Gpt2::shape() const { return state_->shape; }
bool Gpt2::recomputes_layers() const { return state_->recompute_layers; }
at::ScalarType Gpt2::compute() const { return state_->compute; }
at::Device Gpt2::device() const { return state_->device; }
std::span<const int64_t> Gpt2::offsets() const { return state_->batch.offsets; }
std::span<const int64_t> Gpt2::ids() const { return state_->batch.ids; }
std::span<const int64_t> Gpt2::targets() const { return state_->batch.targets; }

void Gpt2::bind(const at::Tensor& flat) {
  State& s = *state_;
  DPFA_CHECK(flat.dim() == 1 && flat.size(0) == s.shape.parameter_count() && flat.is_contiguous() &&
             flat.scalar_type() == s.compute && flat.device().type() == s.device.type());
  s.weights = model::view_gpt2_weights(s.shape, s.parameters, flat);
}

at::Tensor Gpt2::forward(const model::Batch& batch, bool for_backward) {
  c10::InferenceMode guard;
  State& s = *state_;
  DPFA_CHECK(batch.tokens <= s.shape.positions, batch.tokens, " tokens, ", s.shape.positions, " positions");
  s.batch.assign(batch);
  const at::Tensor losses =
      at::zeros({batch.examples}, at::TensorOptions().dtype(at::kDouble).device(s.device));
  if (s.batch.count() == 0) return losses;
  s.layers.clear();
  s.layers.resize(s.shape.layers);
  at::Tensor x = s.embed();
  for (int64_t l = 0; l < s.shape.layers; ++l) x = s.layer_forward(l, x);
  s.final_x = x;
  s.final_normed = layer_norm(x, s.weights.final_gain, s.weights.final_shift);
  s.make_logits();
  at::mm_out(s.logits, s.final_normed.y, s.weights.head.t());
  if (DPFA_PLANT("slot_dependent_product")) s.logits.slice(0, s.batch.offsets[1]).mul_(1 + 0x1p-7);
  const at::Tensor row_losses = cross_entropy(s.logits, s.batch.targets, s.batch.loss_weights, for_backward);
  std::vector<int64_t> example_of_row;
  for (int64_t b = 0; b < batch.examples; ++b)
    example_of_row.insert(example_of_row.end(), s.batch.offsets[b + 1] - s.batch.offsets[b], b);
  return losses.index_add_(0, upload<int64_t>(example_of_row, s.device), row_losses);
}

void Gpt2::backward(model::GradientVisitor& visitor) {
  c10::InferenceMode guard;
  State& s = *state_;
  DPFA_CHECK(s.batch.count() > 0 && static_cast<int64_t>(s.layers.size()) == s.shape.layers);
  const model::ParameterInfo* final_norm = &s.parameters[2 + 12 * static_cast<size_t>(s.shape.layers)];
  visitor.linear({s.final_normed.y, s.logits, head_offset(s.shape, s.parameters), true}, std::nullopt);
  at::Tensor g = at::mm(s.logits, s.weights.head);
  visitor.layer_norm(g, s.final_x, statistic(s.final_normed.mean), statistic(s.final_normed.rstd),
                     final_norm[0].offset, final_norm[1].offset);
  g = layer_norm_input_gradient(g, s.final_x, s.final_normed, s.weights.final_gain, s.weights.final_shift);
  for (int64_t l = s.shape.layers - 1; l >= 0; --l) g = s.layer_backward(l, g, visitor);
  if (!s.recompute_layers) s.layers.clear();
  visitor.embedding({s.batch.ids, g, s.parameters[0].offset, s.parameters[1].offset,
                     s.shape.tied_head ? std::optional<size_t>(0) : std::nullopt});
}

}  // namespace dpfa::device
