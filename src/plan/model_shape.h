// The public dimensions of a GPT-2 model, enough to count its parameters without building it.
#pragma once

#include <cstdint>

namespace dpfa::plan {

struct Gpt2Shape {
  int64_t layers = 0;     // L
  int64_t width = 0;      // C
  int64_t heads = 0;      // NH, divides width
  int64_t positions = 0;  // learned position embeddings
  int64_t vocab = 0;      // V
  bool tied_head = true;  // the output projection is the token embedding

  bool operator==(const Gpt2Shape&) const = default;

  int64_t parameter_count() const {
    const int64_t per_layer = 12 * width * width + 13 * width;
    return vocab * width * (tied_head ? 1 : 2) + positions * width + layers * per_layer + 2 * width;
  }
};

}  // namespace dpfa::plan
