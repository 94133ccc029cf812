// The release and the update in one pass over device memory: noise, optimizer, cast to bfloat16, and the sum
// left zero for the next step, as NoisyGradient::take and optimizer_step.h do on the CPU, with the same bits.
//
// Guarantee: that of noise.h. The noise of element i of step t is a function of (key, t, i) alone, where i
// counts over the whole parameter vector: a shard [first, first + count) passes its own `first`. Every
// element of the sum is read once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

#include "kernels/cuda/device.h"
#include "kernels/noise.h"
#include "kernels/optimizer_step.h"

namespace dpfa::kernels::cuda {

// `scale` is the grid step divided by the public divisor.
struct Release {
  StreamKey key;
  uint64_t step;
  NoiseSpec spec;
  double scale;
};

// Which elements take weight decay, kept on the device. `ranges` must follow each other without gaps from 0
// to `count`; throws InternalError otherwise.
class DecayRanges {
 public:
  DecayRanges(std::span<const DecayRange> ranges, int64_t count);
  const DecayRange* data() const { return ranges_.data(); }
  int64_t size() const { return ranges_.size(); }
  int64_t elements() const { return elements_; }

 private:
  DeviceArray<DecayRange> ranges_;
  int64_t elements_;
};

// All pointers are device memory of `count` elements. Int is int32_t or int64_t (|sum| <= 2^62). Work is put
// on `stream`; throws as device.h and InternalError for what noise.h and optimizer_step.h refuse.

// out[i] = float(scale (sum[i] + round(stddev normal(key, step, first + i)))); the sum stays.
template <typename Int>
void add_noise(const Release& release, uint64_t first, int64_t count, const Int* sum, float* out,
               cudaStream_t stream);

struct AdamwState {
  float *m, *v, *weights;
  uint16_t* compute;  // bfloat16 bits of the weights; may be null
};
template <typename Int>
void adamw_step(const Release& release, const AdamwStep& step, const DecayRanges& ranges, uint64_t first,
                Int* sum, const AdamwState& state, cudaStream_t stream);

struct SgdState {
  float* v;  // may be null where momentum is 0, or no element is in the shard
  float* weights;
  uint16_t* compute;  // may be null
};
template <typename Int>
void sgd_step(const Release& release, const SgdStep& step, const DecayRanges& ranges, uint64_t first,
              Int* sum, const SgdState& state, cudaStream_t stream);

}  // namespace dpfa::kernels::cuda
