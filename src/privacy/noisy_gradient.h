// What a release gives: a differentially private gradient, the only gradient that the optimizer of a private run
// accepts. Only the Privatizer makes one. (P) f32, already divided by the public divisor; the same bits on all ranks.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/flat_buffer.h"

namespace dpfa::privacy {

class NoisyGradient {
 public:
  NoisyGradient(NoisyGradient&&) = default;
  NoisyGradient& operator=(NoisyGradient&&) = default;
  std::span<const float> values() const {
    return {reinterpret_cast<const float*>(memory_.data()), static_cast<size_t>(memory_.size())};
  }

 private:
  friend class Clipper;     // takes the memory back for the next step
  friend class Privatizer;
  explicit NoisyGradient(FlatBuffer<int32_t> memory) : memory_(std::move(memory)) {}

  FlatBuffer<int32_t> memory_;  // the sum's own memory, rewritten in place as f32
};

}  // namespace dpfa::privacy
