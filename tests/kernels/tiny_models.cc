#include "tests/kernels/tiny_models.h"

#include <cmath>
#include <random>

#include "src/base/check.h"
#include "tests/kernels/random_matrix.h"

namespace dpfa::kernels::test {
namespace {

constexpr int64_t kNoTarget = -100;
constexpr double kAdapterScale = 2;

std::string layer_name(const std::string& layers, int64_t layer) {
  return layers + "." + std::to_string(layer) + ".";
}

// Adds parameters as a model's list of them goes.
class Builder {
 public:
  explicit Builder(const Fill& fill) : fill_(fill) {}
  void linear(const std::string& name, int64_t outputs, int64_t inputs, bool has_bias,
              bool is_trained = true) {
    add(name + ".weight", {outputs, inputs}, is_trained);
    if (has_bias) add(name + ".bias", {outputs}, is_trained);
  }
  void layer_norm(const std::string& name, int64_t width) {
    add(name + ".weight", {width});
    add(name + ".bias", {width});
  }
  void add(const std::string& name, at::IntArrayRef shape, bool is_trained = true) {
    parameters.add(name, fill_(name, shape), is_trained);
  }
  Parameters parameters;

 private:
  const Fill& fill_;
};

// A linear layer with its adapter, where it has one: down (rank, inputs), up (outputs, rank).
at::Tensor adapted(Tape& tape, const at::Tensor& x, const std::string& name) {
  const at::Tensor y = tape.linear(x, name);
  if (!tape.has(name + ".lora_A.weight")) return y;
  return y + kAdapterScale * tape.linear(tape.linear(x, name + ".lora_A"), name + ".lora_B");
}

// Turns channel c and channel c + D / 2 of each head in row t of an example by the angle t theta^(-2 c / D).
at::Tensor rotated(const at::Tensor& rows, const LlamaConfig& config, std::span<const int64_t> offsets) {
  const int64_t half = config.head_width / 2;
  at::Tensor angles = at::empty({rows.size(0), 1, half}, at::kDouble);
  auto angle = angles.accessor<double, 3>();
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    for (int64_t t = 0; t < offsets[b + 1] - offsets[b]; ++t)
      for (int64_t c = 0; c < half; ++c)
        angle[offsets[b] + t][0][c] =
            static_cast<double>(t) *
            std::pow(config.theta, -static_cast<double>(c) / static_cast<double>(half));
  const at::Tensor cosine = angles.cos().to(rows.scalar_type()), sine = angles.sin().to(rows.scalar_type());
  const at::Tensor heads = rows.reshape({rows.size(0), -1, config.head_width});
  const at::Tensor first = heads.narrow(2, 0, half), second = heads.narrow(2, half, half);
  return at::cat({first * cosine - second * sine, second * cosine + first * sine}, 2).reshape(rows.sizes());
}

// (N, 1), f64: 1 in the first row of each example.
at::Tensor first_rows(std::span<const int64_t> offsets) {
  at::Tensor marks = at::zeros({offsets.back(), 1}, at::kDouble);
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    if (offsets[b] < offsets[b + 1]) marks[offsets[b]] = 1;
  return marks;
}

template <typename T>
std::vector<T> rows_of(const std::vector<T>& values, const Batch& batch, std::span<const int64_t> which) {
  std::vector<T> rows;
  if (!values.empty())
    for (int64_t b : which)
      rows.insert(rows.end(), values.begin() + batch.offsets[b], values.begin() + batch.offsets[b + 1]);
  return rows;
}

std::vector<int64_t> offsets_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> offsets = {0};
  for (int64_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

std::vector<int64_t> random_ids(std::mt19937_64& random, int64_t count, int64_t range) {
  std::vector<int64_t> ids(count);
  for (int64_t& id : ids) id = static_cast<int64_t>(random() % static_cast<uint64_t>(range));
  return ids;
}

// Every row has a target, but for the first quarter of the first example. The last example is one token,
// again and again, that predicts itself: the two gradients of a tied table add up there.
Batch text_batch(const std::vector<int64_t>& lengths, int64_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  Batch batch;
  batch.offsets = offsets_of(lengths);
  batch.ids = random_ids(random, batch.offsets.back(), vocab);
  batch.targets = random_ids(random, batch.offsets.back(), vocab);
  std::fill_n(batch.targets.begin(), lengths[0] / 4, kNoTarget);
  const int64_t last = batch.offsets[lengths.size() - 1];
  std::fill(batch.ids.begin() + last, batch.ids.end(), 7);
  std::fill(batch.targets.begin() + last, batch.targets.end(), 7);
  for (size_t b = 0; b < lengths.size(); ++b) {
    const int64_t count = b == 0 ? lengths[0] - lengths[0] / 4 : lengths[b];
    batch.weights.insert(batch.weights.end(), lengths[b],
                         1 / static_cast<double>(std::max(count, int64_t{1})));
  }
  return batch;
}

// One target for each example, in its first row.
void classify(Batch& batch, int64_t labels) {
  batch.targets.assign(batch.offsets.back(), kNoTarget);
  batch.weights.assign(batch.offsets.back(), 1);
  for (int64_t b = 0; b < batch.examples(); ++b)
    if (batch.length(b) > 0) batch.targets[batch.offsets[b]] = b % labels;
}

TinyModel llama_model(const LlamaConfig& config, const std::vector<int64_t>& lengths) {
  return {llama_parameters(config, made_values(1)), text_batch(lengths, config.vocab, 2),
          [config](Tape& tape, const Batch& batch) { return llama_logits(config, tape, batch); }};
}

TinyModel bert_model() {
  const BertConfig config;
  Batch batch = text_batch({17, 64, 1, 0, 65, 65, 63, 2}, config.vocab, 3);
  for (int64_t b = 0; b < batch.examples(); ++b)
    for (int64_t t = 0; t < batch.length(b); ++t) batch.kinds.push_back(2 * t > batch.length(b) ? 1 : 0);
  classify(batch, config.labels);
  return {bert_parameters(config, made_values(4)), batch,
          [config](Tape& tape, const Batch& rows) { return bert_logits(config, tape, rows); }};
}

TinyModel vit_model() {
  const VitConfig config;
  const int64_t rows = config.patches + 1;
  Batch batch;
  batch.offsets = offsets_of({rows, rows, 0, rows, rows, rows});
  batch.patches = random_matrix(batch.offsets.back(), config.patch, 5) * (1 - first_rows(batch.offsets));
  classify(batch, config.labels);
  return {vit_parameters(config, made_values(6)), batch,
          [config](Tape& tape, const Batch& images) { return vit_logits(config, tape, images); }};
}

}  // namespace

Batch Batch::of(std::span<const int64_t> which) const {
  Batch result;
  std::vector<at::Tensor> parts;
  for (int64_t b : which) {
    result.offsets.push_back(result.offsets.back() + length(b));
    if (patches.defined()) parts.push_back(patches.narrow(0, offsets[b], length(b)));
  }
  result.ids = rows_of(ids, *this, which);
  result.kinds = rows_of(kinds, *this, which);
  result.targets = rows_of(targets, *this, which);
  result.weights = rows_of(weights, *this, which);
  if (!parts.empty()) result.patches = at::cat(parts);
  return result;
}

Fill made_values(uint64_t seed) {
  return [seed](const std::string& name, at::IntArrayRef shape) mutable {
    const at::Tensor normals = random_matrix(1, c10::multiply_integers(shape), seed++).view(shape);
    if (shape.size() == 2) return normals * (1.5 / std::sqrt(static_cast<double>(shape[1])));
    const bool is_gain = name.ends_with(".weight");
    return is_gain ? 1 + 0.3 * normals : 0.3 * normals;
  };
}

Parameters llama_parameters(const LlamaConfig& c, const Fill& fill) {
  const bool is_full = c.adapter_rank == 0;
  Builder b(fill);
  const auto adapter = [&](const std::string& name, int64_t outputs) {
    if (is_full) return;
    b.linear(name + ".lora_A", c.adapter_rank, c.width, false);
    b.linear(name + ".lora_B", outputs, c.adapter_rank, false);
  };
  b.linear("model.embed_tokens", c.vocab, c.width, false, is_full);
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = layer_name("model.layers", l), self = layer + "self_attn.",
                      mlp = layer + "mlp.";
    const int64_t queries = c.heads * c.head_width, keys = c.key_heads * c.head_width;
    b.add(layer + "input_layernorm.weight", {c.width});
    b.linear(self + "q_proj", queries, c.width, c.attention_bias, is_full);
    adapter(self + "q_proj", queries);
    b.linear(self + "k_proj", keys, c.width, c.attention_bias, is_full);
    b.linear(self + "v_proj", keys, c.width, c.attention_bias, is_full);
    adapter(self + "v_proj", keys);
    b.linear(self + "o_proj", c.width, queries, c.attention_bias, is_full);
    b.add(layer + "post_attention_layernorm.weight", {c.width});
    b.linear(mlp + "gate_proj", c.inner, c.width, c.mlp_bias, is_full);
    b.linear(mlp + "up_proj", c.inner, c.width, c.mlp_bias, is_full);
    b.linear(mlp + "down_proj", c.width, c.inner, c.mlp_bias, is_full);
  }
  b.add("model.norm.weight", {c.width});
  if (!c.is_tied) b.linear("lm_head", c.vocab, c.width, false, is_full);
  return b.parameters;
}

at::Tensor llama_logits(const LlamaConfig& c, Tape& tape, const Batch& batch) {
  const auto turned = [&](const at::Tensor& rows) { return rotated(rows, c, batch.offsets); };
  at::Tensor x = tape.embedding(batch.ids, "model.embed_tokens");
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = layer_name("model.layers", l), self = layer + "self_attn.",
                      mlp = layer + "mlp.";
    const at::Tensor n = tape.rms_norm(x, layer + "input_layernorm", c.epsilon);
    const at::Tensor heads = tape.attention(
        turned(adapted(tape, n, self + "q_proj")), turned(adapted(tape, n, self + "k_proj")),
        adapted(tape, n, self + "v_proj"), {c.heads, c.key_heads, c.head_width, /*causal=*/true});
    x = x + tape.linear(heads, self + "o_proj");
    const at::Tensor m = tape.rms_norm(x, layer + "post_attention_layernorm", c.epsilon);
    const at::Tensor inner = at::silu(tape.linear(m, mlp + "gate_proj")) * tape.linear(m, mlp + "up_proj");
    x = x + tape.linear(inner, mlp + "down_proj");
  }
  return tape.linear(tape.rms_norm(x, "model.norm", c.epsilon), c.is_tied ? "model.embed_tokens" : "lm_head");
}

Parameters bert_parameters(const BertConfig& c, const Fill& fill) {
  Builder b(fill);
  b.add("bert.embeddings.word_embeddings.weight", {c.vocab, c.width});
  b.add("bert.embeddings.position_embeddings.weight", {c.positions, c.width});
  b.add("bert.embeddings.token_type_embeddings.weight", {c.kinds, c.width});
  b.layer_norm("bert.embeddings.LayerNorm", c.width);
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = layer_name("bert.encoder.layer", l);
    for (const char* part : {"query", "key", "value"})
      b.linear(layer + "attention.self." + part, c.width, c.width, true);
    b.linear(layer + "attention.output.dense", c.width, c.width, true);
    b.layer_norm(layer + "attention.output.LayerNorm", c.width);
    b.linear(layer + "intermediate.dense", c.inner, c.width, true);
    b.linear(layer + "output.dense", c.width, c.inner, true);
    b.layer_norm(layer + "output.LayerNorm", c.width);
  }
  b.linear("bert.pooler.dense", c.width, c.width, true);
  b.linear("classifier", c.labels, c.width, true);
  return b.parameters;
}

at::Tensor bert_logits(const BertConfig& c, Tape& tape, const Batch& batch) {
  const std::string tables = "bert.embeddings.";
  const at::Tensor is_padding = at::tensor(batch.ids, at::kLong).eq(c.padding).unsqueeze(1);
  const at::Tensor words = tape.embedding(batch.ids, tables + "word_embeddings");
  at::Tensor x =
      at::where(is_padding, words.detach(), words) +
      tape.embedding(batch.kinds, tables + "token_type_embeddings", tables + "position_embeddings");
  x = tape.layer_norm(x, tables + "LayerNorm", c.epsilon);
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = layer_name("bert.encoder.layer", l), self = layer + "attention.self.";
    const at::Tensor heads = tape.attention(tape.linear(x, self + "query"), tape.linear(x, self + "key"),
                                            tape.linear(x, self + "value"),
                                            {c.heads, c.heads, c.width / c.heads, /*causal=*/false});
    x = tape.layer_norm(x + tape.linear(heads, layer + "attention.output.dense"),
                        layer + "attention.output.LayerNorm", c.epsilon);
    const at::Tensor inner = at::gelu(tape.linear(x, layer + "intermediate.dense"));
    x = tape.layer_norm(x + tape.linear(inner, layer + "output.dense"), layer + "output.LayerNorm",
                        c.epsilon);
  }
  return tape.linear(tape.linear(x, "bert.pooler.dense").tanh(), "classifier");
}

Parameters vit_parameters(const VitConfig& c, const Fill& fill) {
  Builder b(fill);
  b.add("vit.embeddings.cls_token", {c.width});
  b.add("vit.embeddings.position_embeddings.weight", {c.patches + 1, c.width});
  b.linear("vit.embeddings.patch_embeddings.projection", c.width, c.patch, true);
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = layer_name("vit.encoder.layer", l);
    b.layer_norm(layer + "layernorm_before", c.width);
    for (const char* part : {"query", "key", "value"})
      b.linear(layer + "attention.attention." + part, c.width, c.width, true);
    b.linear(layer + "attention.output.dense", c.width, c.width, true);
    b.layer_norm(layer + "layernorm_after", c.width);
    b.linear(layer + "intermediate.dense", c.inner, c.width, true);
    b.linear(layer + "output.dense", c.width, c.inner, true);
  }
  b.layer_norm("vit.layernorm", c.width);
  b.linear("classifier", c.labels, c.width, true);
  return b.parameters;
}

at::Tensor vit_logits(const VitConfig& c, Tape& tape, const Batch& batch) {
  const at::Tensor is_class = first_rows(batch.offsets).to(tape.type());
  std::vector<int64_t> positions;
  for (int64_t row = 0; row < batch.offsets.back(); ++row) positions.push_back(row % (c.patches + 1));
  at::Tensor x = tape.linear(batch.patches.to(tape.type()), "vit.embeddings.patch_embeddings.projection") *
                     (1 - is_class) +
                 tape.marked_rows(is_class, "vit.embeddings.cls_token") +
                 tape.embedding(positions, "vit.embeddings.position_embeddings");
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = layer_name("vit.encoder.layer", l), self = layer + "attention.attention.";
    const at::Tensor n = tape.layer_norm(x, layer + "layernorm_before", c.epsilon);
    const at::Tensor heads = tape.attention(tape.linear(n, self + "query"), tape.linear(n, self + "key"),
                                            tape.linear(n, self + "value"),
                                            {c.heads, c.heads, c.width / c.heads, /*causal=*/false});
    x = x + tape.linear(heads, layer + "attention.output.dense");
    const at::Tensor m = tape.layer_norm(x, layer + "layernorm_after", c.epsilon);
    x = x + tape.linear(at::gelu(tape.linear(m, layer + "intermediate.dense")), layer + "output.dense");
  }
  return tape.linear(tape.layer_norm(x, "vit.layernorm", c.epsilon), "classifier");
}

TinyModel tiny_model(const std::string& name) {
  const std::vector<int64_t> lengths = {64, 1, 0, 63, 65, 65, 2, 20, 33};
  if (name == "llama") return llama_model({}, lengths);
  if (name == "llama_tied") return llama_model({.is_tied = true, .attention_bias = true}, lengths);
  if (name == "llama_adapters")
    return llama_model({.layers = 1, .adapter_rank = 3}, {64, 1, 0, 257, 2, 63, 129, 65, 127});
  if (name == "bert") return bert_model();
  DPFA_CHECK(name == "vit", name);
  return vit_model();
}

}  // namespace dpfa::kernels::test
