// A model folder (config.json, model.safetensors, a tokenizer's files) opened for use without training.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <memory>

#include "src/base/flat_buffer.h"
#include "src/data/tokenizer.h"
#include "src/model/gpt2.h"

namespace dpfa::train {

class FrozenModel {
 public:
  // Reads the weights of a Hugging Face folder or checkpoint; `compute` as in model::Gpt2. Throws what
  // src/model/gpt2_io.h does.
  explicit FrozenModel(const std::filesystem::path& dir, at::ScalarType compute = at::kFloat);

  model::Gpt2& gpt2() { return gpt2_; }
  const plan::Gpt2Shape& shape() const { return gpt2_.shape(); }
  std::span<const float> weights() const { return weights_.span(); }  // (P)

 private:
  model::Gpt2 gpt2_;
  FlatBuffer<float> weights_;
};

// The tokenizer beside a model: the kind that data::kTokenizerFile names, else the GPT-2 vocabulary of a
// Hugging Face folder. Throws IoError where there is neither and StateError where it has more tokens than the
// model.
std::unique_ptr<data::Tokenizer> tokenizer_of(const std::filesystem::path& dir, const plan::Gpt2Shape& shape);

// How many examples of `tokens` tokens to give the model at once: the logits (N, V) stay below 64 MiB.
int64_t slots_for(const plan::Gpt2Shape& shape, int64_t tokens);

}  // namespace dpfa::train
