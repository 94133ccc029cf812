// Text sampled from a model. What a model writes is a function of its weights: a privately trained one may be
// asked as often as one likes, one trained without privacy may repeat its records.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/base/stream_key.h"
#include "src/data/tokenizer.h"
#include "src/model/gpt2_decoder.h"
#include "src/plan/model_shape.h"

namespace dpfa::train {

struct SamplingOptions {
  int64_t max_tokens = 64;  // after the prompt
  double temperature = 1;   // divides the logits; 0: always the most probable token
  int64_t top_k = 0;        // only the k most probable tokens; 0: all
};
// Throws ConfigError where a value is out of range.
void check_sampling(const SamplingOptions& options);

// The token that the uniform number u in [0, 1) picks from softmax(logits / temperature), restricted to
// top_k. Equal logits: the smaller id comes first. Throws StateError where no logit is finite or one is NaN.
int64_t pick_token(std::span<const float> logits, const SamplingOptions& options, double u);

// `prompt` and what follows it: end of text, the prompt's tokens, then sampled ones until end of text,
// max_tokens or the model's last position. Only tokens of the tokenizer are sampled. A function of the
// weights, the options, the key and `sample` alone. Throws ConfigError where the prompt leaves no position.
std::string generate_text(model::Gpt2Decoder& decoder, const plan::Gpt2Shape& shape,
                          const data::Tokenizer& tokenizer, std::string_view prompt,
                          const SamplingOptions& options, const StreamKey& key, uint64_t sample);

}  // namespace dpfa::train
