#include "src/model/gpt2_decoder.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/layer_norm.h"
#include "src/base/check.h"
#include "src/model/gpt2_weights_view.h"

namespace dpfa::model {
namespace {

constexpr double kEpsilon = 1e-5;  // of LayerNorm, as in gpt2.cc

at::Tensor normalised(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& shift) {
  at::Tensor y = at::empty_like(x), mean = at::empty({x.size(0)}), rstd = at::empty({x.size(0)});
  kernels::layer_norm(x, gain, shift, kEpsilon, y, mean, rstd);
  return y;
}

}  // namespace

struct Gpt2Decoder::State {
  plan::Gpt2Shape shape;
  Gpt2Weights weights;
  int64_t sequences = 1;
  int64_t capacity = 0;
  int64_t tokens = 0;
  std::vector<at::Tensor> keys, values;  // per layer (B, heads, capacity, width / heads)
  at::Tensor logits;                     // (B, V)

  void make_caches() {
    for (int64_t layer = 0; layer < shape.layers; ++layer)
      for (auto* cache : {&keys, &values})
        cache->push_back(at::empty({sequences, shape.heads, capacity, shape.width / shape.heads}));
  }

  // x (B, C) -> (B, C): attention of the newest token to itself and all before it.
  at::Tensor attend(int64_t layer, const at::Tensor& x) {
    const Gpt2LayerWeights& w = weights.layers[layer];
    const int64_t head_width = shape.width / shape.heads;
    const at::Tensor qkv = at::addmm(w.qkv_bias, x, w.qkv).view({sequences, 3, shape.heads, head_width});
    keys[layer].select(2, tokens).copy_(qkv.select(1, 1));
    values[layer].select(2, tokens).copy_(qkv.select(1, 2));
    const at::Tensor seen_keys = keys[layer].narrow(2, 0, tokens + 1), query = qkv.select(1, 0).unsqueeze(2);
    const at::Tensor scores =
        at::matmul(query, seen_keys.transpose(2, 3)) / std::sqrt(static_cast<double>(head_width));
    const at::Tensor mixed = at::matmul(at::softmax(scores, -1), values[layer].narrow(2, 0, tokens + 1));
    return at::addmm(w.projection_bias, mixed.reshape({sequences, shape.width}), w.projection);
  }
};

Gpt2Decoder::Gpt2Decoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
Gpt2Decoder::~Gpt2Decoder() = default;

Gpt2Decoder::Gpt2Decoder(const plan::Gpt2Shape& shape, std::span<const float> parameters, int64_t capacity)
    : state_(std::make_unique<State>()) {
  c10::InferenceMode guard;
  const int64_t size = static_cast<int64_t>(parameters.size());
  DPFA_CHECK(size == shape.parameter_count() && capacity >= 1 && capacity <= shape.positions, size,
             " parameters, ", capacity, " tokens");
  const at::Tensor flat =
      at::from_blob(const_cast<float*>(parameters.data()), {size}, at::TensorOptions().dtype(at::kFloat));
  state_->shape = shape;
  state_->weights = view_gpt2_weights(shape, gpt2_parameters(shape), flat);
  state_->capacity = capacity;
  state_->make_caches();
}

Gpt2Decoder Gpt2Decoder::branch(int64_t sequences) const {
  c10::InferenceMode guard;
  const State& from = *state_;
  DPFA_CHECK(from.sequences == 1 && sequences >= 1);
  auto state = std::make_unique<State>();
  state->shape = from.shape;
  state->weights = from.weights;
  state->sequences = sequences;
  state->capacity = from.capacity;
  state->tokens = from.tokens;
  state->make_caches();
  for (int64_t layer = 0; layer < from.shape.layers; ++layer) {
    state->keys[layer].narrow(2, 0, from.tokens).copy_(from.keys[layer].narrow(2, 0, from.tokens));
    state->values[layer].narrow(2, 0, from.tokens).copy_(from.values[layer].narrow(2, 0, from.tokens));
  }
  return Gpt2Decoder(std::move(state));
}

int64_t Gpt2Decoder::tokens() const { return state_->tokens; }

void Gpt2Decoder::keep(int64_t tokens) {
  DPFA_CHECK(tokens >= 0 && tokens <= state_->tokens);
  state_->tokens = tokens;
}

std::span<const float> Gpt2Decoder::next(std::span<const int64_t> tokens) {
  c10::InferenceMode guard;
  State& s = *state_;
  const auto known = [&](int64_t token) { return token >= 0 && token < s.shape.vocab; };
  DPFA_CHECK(static_cast<int64_t>(tokens.size()) == s.sequences && s.tokens < s.capacity &&
                 std::all_of(tokens.begin(), tokens.end(), known),
             tokens.size(), " tokens for ", s.sequences, " sequences at position ", s.tokens);
  const at::Tensor ids =
      at::from_blob(const_cast<int64_t*>(tokens.data()), {s.sequences}, at::TensorOptions().dtype(at::kLong));
  at::Tensor x = at::index_select(s.weights.tokens, 0, ids).add_(s.weights.positions.narrow(0, s.tokens, 1));
  for (int64_t layer = 0; layer < s.shape.layers; ++layer) {
    const Gpt2LayerWeights& w = s.weights.layers[layer];
    x.add_(s.attend(layer, normalised(x, w.ln1_gain, w.ln1_shift)));
    const at::Tensor hidden =
        at::gelu(at::addmm(w.fc_bias, normalised(x, w.ln2_gain, w.ln2_shift), w.fc), "tanh");
    x.add_(at::addmm(w.output_bias, hidden, w.output));
  }
  s.logits = at::mm(normalised(x, s.weights.final_gain, s.weights.final_shift), s.weights.head.t());
  ++s.tokens;
  return {s.logits.const_data_ptr<float>(), static_cast<size_t>(s.logits.numel())};
}

}  // namespace dpfa::model
