// What a release gives: a differentially private gradient, the only gradient that the optimizer of a private
// run accepts. Only the Privatizer makes one. (P) f32, already divided by the public divisor; the same bits
// on all ranks.
//
// The noise of an element depends on its index alone, so it is made when the element is read: the optimizer
// takes chunk after chunk through its cache, and the memory is left zero for the next step's sum. Nothing
// gives out the sum behind it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/noise.h"
#include "src/base/flat_buffer.h"
#include "src/base/stream_key.h"

namespace dpfa::privacy {

class NoisyGradient {
 public:
  NoisyGradient(NoisyGradient&&) = default;
  NoisyGradient& operator=(NoisyGradient&&) = default;

  int64_t size() const { return sum_.size(); }
  // out := elements [begin, begin + out.size()). Disjoint chunks may be read concurrently.
  void read(int64_t begin, std::span<float> out) const;
  // The same, for the last time: the elements are zeroed behind it.
  void take(int64_t begin, std::span<float> out);
  bool any_taken() const { return taken_ != 0; }
  std::vector<float> values() const;

 private:
  friend class Clipper;  // takes the memory back for the next step
  friend class Privatizer;
  struct Noise {
    StreamKey key;
    uint64_t step;
    kernels::NoiseSpec spec;
    double scale;  // grid step / public divisor
  };
  NoisyGradient(FlatBuffer<int32_t> sum, const Noise& noise) : sum_(std::move(sum)), noise_(noise) {}

  FlatBuffer<int32_t> sum_;  // over all ranks, in grid units
  Noise noise_;
  int64_t taken_ = 0;  // elements
};

}  // namespace dpfa::privacy
