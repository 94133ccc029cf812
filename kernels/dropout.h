// Inverted dropout whose mask is a function of (key, step, record, site, position in the example) alone: not
// of the microbatch, the slot or the rank. Philox: a mask is no privacy mechanism.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

#include "src/base/stream_key.h"

namespace dpfa::kernels {

struct DropoutSite {
  double rate;  // in [0, 1)
  StreamKey key;
  int64_t step;
  int64_t site;                      // number of the place in the model
  std::span<const int64_t> records;  // (B)
  std::span<const int64_t> offsets;  // (B + 1): rows of each example
};

// x (N, C) := x * mask / (1 - rate). The same call on a gradient is the backward pass.
void apply_dropout(const DropoutSite& site, at::Tensor& x);

}  // namespace dpfa::kernels
