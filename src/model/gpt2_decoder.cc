#include "src/model/gpt2_decoder.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <vector>

#include "kernels/layer_norm.h"
#include "src/base/check.h"
#include "src/model/gpt2_weights_view.h"

namespace dpfa::model {
namespace {

constexpr double kEpsilon = 1e-5;  // of LayerNorm, as in gpt2.cc

at::Tensor normalised(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& shift) {
  at::Tensor y = at::empty_like(x), mean = at::empty({1}), rstd = at::empty({1});
  kernels::layer_norm(x, gain, shift, kEpsilon, y, mean, rstd);
  return y;
}

}  // namespace

struct Gpt2Decoder::State {
  plan::Gpt2Shape shape;
  Gpt2Weights weights;
  std::vector<at::Tensor> keys, values;  // per layer (heads, positions, width / heads)
  at::Tensor logits;                     // (1, V)
  int64_t tokens = 0;

  // x (1, C) -> (1, C): attention of the newest token to itself and all before it.
  at::Tensor attend(int64_t layer, const at::Tensor& x) {
    const Gpt2LayerWeights& w = weights.layers[layer];
    const int64_t head_width = shape.width / shape.heads;
    const at::Tensor qkv = at::addmm(w.qkv_bias, x, w.qkv).view({3, shape.heads, 1, head_width});
    keys[layer].narrow(1, tokens, 1).copy_(qkv[1]);
    values[layer].narrow(1, tokens, 1).copy_(qkv[2]);
    const at::Tensor scores = at::bmm(qkv[0], keys[layer].narrow(1, 0, tokens + 1).transpose(1, 2));
    const at::Tensor shares = at::softmax(scores / std::sqrt(static_cast<double>(head_width)), -1);
    const at::Tensor mixed = at::bmm(shares, values[layer].narrow(1, 0, tokens + 1)).view({1, shape.width});
    return at::addmm(w.projection_bias, mixed, w.projection);
  }
};

Gpt2Decoder::Gpt2Decoder(const plan::Gpt2Shape& shape, std::span<const float> parameters)
    : state_(std::make_unique<State>()) {
  c10::InferenceMode guard;
  const int64_t size = static_cast<int64_t>(parameters.size());
  DPFA_CHECK(size == shape.parameter_count());
  const at::Tensor flat =
      at::from_blob(const_cast<float*>(parameters.data()), {size}, at::TensorOptions().dtype(at::kFloat));
  state_->shape = shape;
  state_->weights = view_gpt2_weights(shape, gpt2_parameters(shape), flat);
  for (int64_t layer = 0; layer < shape.layers; ++layer)
    for (auto* cache : {&state_->keys, &state_->values})
      cache->push_back(at::empty({shape.heads, shape.positions, shape.width / shape.heads}));
}

Gpt2Decoder::~Gpt2Decoder() = default;

int64_t Gpt2Decoder::tokens() const { return state_->tokens; }
void Gpt2Decoder::restart() { state_->tokens = 0; }

std::span<const float> Gpt2Decoder::next(int64_t token) {
  c10::InferenceMode guard;
  State& s = *state_;
  DPFA_CHECK(token >= 0 && token < s.shape.vocab && s.tokens < s.shape.positions, "token ", token, " at position ",
             s.tokens);
  at::Tensor x = s.weights.tokens.narrow(0, token, 1) + s.weights.positions.narrow(0, s.tokens, 1);
  for (int64_t layer = 0; layer < s.shape.layers; ++layer) {
    const Gpt2LayerWeights& w = s.weights.layers[layer];
    x.add_(s.attend(layer, normalised(x, w.ln1_gain, w.ln1_shift)));
    const at::Tensor hidden = at::gelu(at::addmm(w.fc_bias, normalised(x, w.ln2_gain, w.ln2_shift), w.fc), "tanh");
    x.add_(at::addmm(w.output_bias, hidden, w.output));
  }
  s.logits = at::mm(normalised(x, s.weights.final_gain, s.weights.final_shift), s.weights.head.t());
  ++s.tokens;
  return {s.logits.const_data_ptr<float>(), static_cast<size_t>(s.shape.vocab)};
}

}  // namespace dpfa::model
