// A model that knows one text by heart: at every position it prefers the token that stands there in the text.
#pragma once

#include <cstdint>
#include <vector>

#include "src/base/check.h"
#include "src/model/gpt2.h"

namespace dpfa::testing {

// No layers; the position embedding of place t is the unit vector t, and the untied head gives the text's
// token t + 1 a logit of about `preference` there, all others 0 (up to the mean that the final LayerNorm
// subtracts). `width` must exceed the number of tokens.
inline plan::Gpt2Shape text_model_shape(int64_t width, int64_t vocab) {
  return {0, width, 1, width - 1, vocab, false};
}

inline std::vector<float> text_model_weights(const plan::Gpt2Shape& shape, const std::vector<int32_t>& text,
                                             float preference) {
  DPFA_CHECK(static_cast<int64_t>(text.size()) <= shape.positions);
  std::vector<float> weights(shape.parameter_count(), 0.0f);
  const auto parameters = model::gpt2_parameters(shape);
  float* positions = weights.data() + parameters[1].offset;
  float* gain = weights.data() + parameters[2].offset;
  float* head = weights.data() + parameters[4].offset;
  for (int64_t t = 0; t < shape.positions; ++t)
    positions[t * shape.width + t] = 1000;  // against LayerNorm's epsilon
  for (int64_t c = 0; c < shape.width; ++c) gain[c] = 1.0f / shape.width;
  for (size_t t = 0; t + 1 < text.size(); ++t)
    head[text[t + 1] * shape.width + static_cast<int64_t>(t)] =
        preference * std::sqrt(static_cast<float>(shape.width));
  return weights;
}

}  // namespace dpfa::testing
