// GPT-2 one token at a time: keys and values of earlier tokens are kept, so a token costs one pass over the
// weights instead of one over the whole text. f32; the same function as Gpt2::next_token_logits up to
// rounding.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "src/plan/model_shape.h"

namespace dpfa::model {

// B sequences of equal length, side by side.
class Gpt2Decoder {
 public:
  // One sequence of at most `capacity` tokens (1 to shape.positions). `parameters` (P) must outlive the
  // decoder and its branches.
  Gpt2Decoder(const plan::Gpt2Shape& shape, std::span<const float> parameters, int64_t capacity);
  ~Gpt2Decoder();

  // `sequences` of them, each with the tokens that this decoder's only sequence has so far.
  Gpt2Decoder branch(int64_t sequences) const;

  // Appends one token (0 to V - 1) to each sequence; logits (B, V) of the tokens that follow, valid until the
  // next call. At most `capacity` calls.
  std::span<const float> next(std::span<const int64_t> tokens);
  std::span<const float> next(int64_t token) { return next(std::span(&token, 1)); }
  int64_t tokens() const;     // of each sequence
  void keep(int64_t tokens);  // forgets all but the first `tokens`

 private:
  struct State;
  explicit Gpt2Decoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::model
