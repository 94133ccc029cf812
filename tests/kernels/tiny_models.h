// Tiny models of the kinds that Hugging Face calls Llama, BERT and ViT, over the layers of tape.h: what a
// forward pass computes, and made parameters and batches. Parameters have the names of a Hugging Face
// directory, so that one can be loaded.
//
// Sources: Touvron et al. 2023 (arXiv 2302.13971) with grouped queries (Ainslie et al. 2023, 2305.13245) and
// rotary positions (Su et al. 2021, 2104.09864); Devlin et al. 2019 (1810.04805); Dosovitskiy et al. 2021
// (2010.11929); adapters of low rank: Hu et al. 2021 (2106.09685).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tests/kernels/tape.h"

namespace dpfa::kernels::test {

// Examples one behind another, rows [offsets[b], offsets[b + 1]).
struct Batch {
  std::vector<int64_t> offsets = {0};
  std::vector<int64_t> ids, kinds, targets;  // (N); what a model does not read may be empty
  std::vector<double> weights;               // (N), of the targets; a target below 0 is none
  at::Tensor patches;                        // (N, values of a patch), f64: zeros in the class token's row

  int64_t examples() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t length(int64_t example) const { return offsets[example + 1] - offsets[example]; }
  Batch of(std::span<const int64_t> which) const;
};

struct TinyModel {
  Parameters parameters;
  Batch batch;
  std::function<at::Tensor(Tape&, const Batch&)> logits;  // (N, targets' range)
};

// The value of a parameter of this shape, f64.
using Fill = std::function<at::Tensor(const std::string& name, at::IntArrayRef shape)>;
// Everything away from its neutral value.
Fill made_values(uint64_t seed);

struct LlamaConfig {
  int64_t vocab = 61, width = 24, inner = 40, layers = 2;
  int64_t heads = 4, key_heads = 2, head_width = 16;
  double epsilon = 1e-5, theta = 10000;
  bool is_tied = false, attention_bias = false, mlp_bias = false;
  int64_t adapter_rank = 0;  // > 0: adapters on queries and values and the gains are trained, nothing else
};
Parameters llama_parameters(const LlamaConfig& config, const Fill& fill);
at::Tensor llama_logits(const LlamaConfig& config, Tape& tape, const Batch& batch);

// Every row goes through pooler and classifier; only the first of an example has a target. As in Hugging
// Face's models the row of the padding token is not trained, even where a text holds that token.
struct BertConfig {
  int64_t vocab = 61, width = 48, inner = 40, layers = 2, heads = 3, positions = 65, kinds = 2, labels = 3;
  int64_t padding = 0;
  double epsilon = 1e-12;
};
Parameters bert_parameters(const BertConfig& config, const Fill& fill);
at::Tensor bert_logits(const BertConfig& config, Tape& tape, const Batch& batch);

// The class token stands before the patches; it alone has a target.
struct VitConfig {
  int64_t patches = 16, patch = 12, width = 32, inner = 40, layers = 2, heads = 2, labels = 5;
  double epsilon = 1e-12;
};
Parameters vit_parameters(const VitConfig& config, const Fill& fill);
at::Tensor vit_logits(const VitConfig& config, Tape& tape, const Batch& batch);

// By name: llama, llama_tied, llama_adapters, bert, vit. Each batch has examples without a row.
TinyModel tiny_model(const std::string& name);

}  // namespace dpfa::kernels::test
