// The gradient of a run without privacy: a type of its own, so that the optimizer of a private run cannot
// take it.
#pragma once

#include <span>

#include "src/base/flat_buffer.h"

namespace dpfa::train {

class BaselineGradient {
 public:
  explicit BaselineGradient(int64_t parameters) : memory_(parameters) {}
  int64_t size() const { return memory_.size(); }
  std::span<float> sum() { return memory_.span(); }

 private:
  FlatBuffer<float> memory_;
};

}  // namespace dpfa::train
