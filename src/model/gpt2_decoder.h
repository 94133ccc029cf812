// GPT-2 one token at a time, for sampling: keys and values of earlier tokens are kept, so a token costs one pass over
// the weights instead of one over the whole text. f32; the same function as Gpt2::next_token_logits up to rounding.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "src/plan/model_shape.h"

namespace dpfa::model {

class Gpt2Decoder {
 public:
  // `parameters` (P) must outlive the decoder.
  Gpt2Decoder(const plan::Gpt2Shape& shape, std::span<const float> parameters);
  ~Gpt2Decoder();

  // Logits (V) of the token that follows all tokens given so far, `token` (0 to V - 1) being the newest; valid until
  // the next call. At most shape.positions calls between restarts.
  std::span<const float> next(int64_t token);
  int64_t tokens() const;  // given so far
  void restart();          // forgets them

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::model
