// One thread's share of a fused release and update: the eight elements whose noise comes from one ChaCha20
// block (or the four Philox counters in its place). Runs on the host as well, where tests compare it with
// noise.h and optimizer_step.h bit by bit.
#pragma once

#include <type_traits>

#include "kernels/element_step.h"
#include "src/base/random/scalar_lane.h"

namespace dpfa::kernels::cuda {

// A release as the device sees it. The elements [first, first + count) of the parameter vector lie in this
// shard.
struct NoiseRange {
  uint32_t key[8];
  uint64_t step;
  double stddev, scale;
  uint64_t first;
  int64_t count;
};

// Blocks [first_block, first_block + blocks) hold every element of the range.
DPFA_ELEMENT uint64_t first_block(const NoiseRange& range) { return range.first / 128 * 16; }
DPFA_ELEMENT uint64_t block_count(const NoiseRange& range) {
  return range.count == 0 ? 0 : ((range.first + range.count - 1) / 128 + 1) * 16 - first_block(range);
}

struct NoState {};

// Update of a release that is only written.
struct WriteNoisy {
  float* out;
  using State = NoState;
  DPFA_ELEMENT State load(int64_t) const { return {}; }
  DPFA_ELEMENT void finish(int64_t i, float g, State&) const { out[i] = g; }
};

// Which of the ranges holds element i decides about weight decay. Ranges follow each other without gaps.
struct DecayLookup {
  const DecayRange* ranges;
  int64_t count;
  DPFA_ELEMENT bool decays(int64_t i) const {
    int64_t low = 0, high = count;  // ranges[low].begin <= i < ranges[high - 1].end
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (ranges[middle].begin <= i ? low : high) = middle;
    }
    return ranges[low].decays;
  }
};

struct AdamwUpdate {
  AdamwConstants decaying, plain;
  DecayLookup decay;
  float *m, *v, *weights;
  uint16_t* compute;  // may be null
  struct State {
    float m, v, w;
  };
  DPFA_ELEMENT State load(int64_t i) const { return {m[i], v[i], weights[i]}; }
  DPFA_ELEMENT void finish(int64_t i, float g, State& s) const {
    adamw_element(decay.decays(i) ? decaying : plain, g, s.m, s.v, s.w);
    m[i] = s.m;
    v[i] = s.v;
    weights[i] = s.w;
    if (compute != nullptr) compute[i] = to_bfloat16(s.w);
  }
};

template <bool kMomentum>
struct SgdUpdate {
  SgdConstants decaying, plain;
  DecayLookup decay;
  float *v, *weights;  // v is not used without momentum
  uint16_t* compute;   // may be null
  struct State {
    float v, w;
  };
  DPFA_ELEMENT State load(int64_t i) const {
    if constexpr (kMomentum) return {v[i], weights[i]};
    return {0, weights[i]};
  }
  DPFA_ELEMENT void finish(int64_t i, float g, State& s) const {
    const SgdConstants& c = decay.decays(i) ? decaying : plain;
    float update = g;
    if constexpr (kMomentum) v[i] = update = velocity_element(c, g, s.v);
    sgd_element(c, update, s.w);
    weights[i] = s.w;
    if (compute != nullptr) compute[i] = to_bfloat16(s.w);
  }
};

// All memory is asked for before the noise is computed. A sum that is not const is left zero.
template <bool kChaCha, typename Int, typename Update>
DPFA_ELEMENT void noisy_block(const NoiseRange& range, uint64_t block, Int* sum, const Update& update) {
  using random_internal::kNormalsOfBlock;
  const int64_t start = static_cast<int64_t>(block / 16 * 128 + block % 16 - range.first);
  std::remove_const_t<Int> sums[kNormalsOfBlock];
  typename Update::State states[kNormalsOfBlock];
  DPFA_UNROLL
  for (int n = 0; n < kNormalsOfBlock; ++n) {
    const int64_t i = start + 16 * n;
    if (i < 0 || i >= range.count) continue;
    sums[n] = sum[i];
    states[n] = update.load(i);
  }
  double normals[kNormalsOfBlock] = {};
  if (range.stddev != 0) random_internal::normals_of_block<kChaCha>({range.key, range.step}, block, normals);
  DPFA_UNROLL
  for (int n = 0; n < kNormalsOfBlock; ++n) {
    const int64_t i = start + 16 * n;
    if (i < 0 || i >= range.count) continue;
    update.finish(i, release_element(range.stddev, range.scale, sums[n], normals[n]), states[n]);
    if constexpr (!std::is_const_v<Int>) sum[i] = 0;
  }
}

}  // namespace dpfa::kernels::cuda
