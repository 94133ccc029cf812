// GPT-2 as a Hugging Face folder: config.json, and model.safetensors or shards with
// model.safetensors.index.json.
//
// Read: only what the engine computes. Another model_type, activation, inner width, LayerNorm epsilon or
// attention variant is Unsupported; a missing, malformed or contradicting file is IoError. Dropout rates of
// config.json are not read: they are an option of training. Tensor names may stand with or without
// "transformer."; F64, F32, F16 and BF16 are accepted; the causal-mask buffers h.N.attn.bias and
// h.N.attn.masked_bias are passed over. The flat vector (P) has the order and layout of gpt2_parameters().
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "src/plan/model_shape.h"

namespace dpfa::model {

// The dimensions that config.json states.
plan::Gpt2Shape read_gpt2_shape(const std::filesystem::path& dir);

// Fills `parameters` (P). IoError names a tensor that is unknown, missing, present twice or of another shape,
// and an lm_head.weight that differs from the token table although `shape` ties them.
void load_gpt2_weights(const std::filesystem::path& dir, const plan::Gpt2Shape& shape,
                       std::span<float> parameters);

// Writes config.json and model.safetensors into the existing folder `dir`, each complete or not at all, in
// the form that `transformers` reads and writes. `end_of_text`: the id before and after a text (bos and eos),
// null in config.json where there is none. A tied head is left out. Throws IoError.
void write_gpt2(const std::filesystem::path& dir, const plan::Gpt2Shape& shape,
                std::span<const float> parameters, std::optional<int64_t> end_of_text = std::nullopt);

}  // namespace dpfa::model
