#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cuda/noisy_block.h"
#include "kernels/cuda/noisy_step.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <bool kChaCha, typename Int, typename Update>
__global__ __launch_bounds__(kThreads, 2) void noisy_step_kernel(const NoiseRange range, Int* sum,
                                                                 const Update update) {
  const uint64_t thread = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread < block_count(range)) noisy_block<kChaCha>(range, first_block(range) + thread, sum, update);
}

NoiseRange range_of(const Release& release, uint64_t first, int64_t count) {
  const NoiseSpec& spec = release.spec;
  // 2^47 x 10.26 < 2^51, the range of round_to_integer.
  DPFA_CHECK(spec.stddev_in_grid_units >= 0 && spec.stddev_in_grid_units <= 0x1p47, "standard deviation of ",
             spec.stddev_in_grid_units, " grid units: it must lie in [0, 2^47]");
  DPFA_CHECK(std::isfinite(release.scale) && release.scale > 0, "scale ", release.scale);
  constexpr uint64_t kLargest = std::numeric_limits<int64_t>::max();
  DPFA_CHECK(count >= 0 && first <= kLargest - static_cast<uint64_t>(count), count, " elements from ", first);
  NoiseRange range = {{}, release.step, spec.stddev_in_grid_units, release.scale, first, count};
  std::copy_n(release.key.words().begin(), 8, range.key);
  return range;
}

template <typename Int, typename Update>
void launch(const Release& release, uint64_t first, int64_t count, Int* sum, const Update& update,
            cudaStream_t stream) {
  NoiseRange range = range_of(release, first, count);
  const auto blocks = static_cast<int64_t>((block_count(range) + kThreads - 1) / kThreads);
  DPFA_CHECK(blocks <= std::numeric_limits<int32_t>::max(), count, " elements in one shard");
  if (blocks > 0) {
    const auto grid = static_cast<unsigned>(blocks);
    if (release.spec.generator == Generator::kChaCha20)
      noisy_step_kernel<true><<<grid, kThreads, 0, stream>>>(range, sum, update);
    else
      noisy_step_kernel<false><<<grid, kThreads, 0, stream>>>(range, sum, update);
    check_launch("noisy_step");
  }
  // The key: the launch has its own copy.
  volatile uint32_t* key = range.key;
  for (int i = 0; i < 8; ++i) key[i] = 0;
}

}  // namespace

DecayRanges::DecayRanges(std::span<const DecayRange> ranges, int64_t count) : elements_(count) {
  check_decay_ranges(ranges, count);
  std::vector<DecayRange> kept;
  for (const DecayRange& range : ranges)
    if (range.begin < range.end) kept.push_back(range);
  ranges_ = DeviceArray<DecayRange>(std::span<const DecayRange>(kept));
}

template <typename Int>
void add_noise(const Release& release, uint64_t first, int64_t count, const Int* sum, float* out,
               cudaStream_t stream) {
  launch(release, first, count, sum, WriteNoisy{out}, stream);
}

template <typename Int>
void adamw_step(const Release& release, const AdamwStep& step, const DecayRanges& ranges, uint64_t first,
                Int* sum, const AdamwState& state, cudaStream_t stream) {
  DPFA_CHECK(step.step >= 1, "AdamW counts its steps from 1, got ", step.step);
  const AdamwUpdate update = {constants_of(step, true),
                              constants_of(step, false),
                              {ranges.data(), ranges.size()},
                              state.m,
                              state.v,
                              state.weights,
                              state.compute};
  launch(release, first, ranges.elements(), sum, update, stream);
}

template <typename Int>
void sgd_step(const Release& release, const SgdStep& step, const DecayRanges& ranges, uint64_t first,
              Int* sum, const SgdState& state, cudaStream_t stream) {
  DPFA_CHECK(state.v != nullptr || step.momentum == 0 || ranges.elements() == 0,
             "momentum needs a buffer of the weights' length");
  const auto run = [&]<bool kMomentum>() {
    const SgdUpdate<kMomentum> update = {constants_of(step, true),
                                         constants_of(step, false),
                                         {ranges.data(), ranges.size()},
                                         state.v,
                                         state.weights,
                                         state.compute};
    launch(release, first, ranges.elements(), sum, update, stream);
  };
  state.v != nullptr ? run.template operator()<true>() : run.template operator()<false>();
}

#define DPFA_INSTANTIATE(Int)                                                                         \
  template void add_noise<Int>(const Release&, uint64_t, int64_t, const Int*, float*, cudaStream_t);  \
  template void adamw_step<Int>(const Release&, const AdamwStep&, const DecayRanges&, uint64_t, Int*, \
                                const AdamwState&, cudaStream_t);                                     \
  template void sgd_step<Int>(const Release&, const SgdStep&, const DecayRanges&, uint64_t, Int*,     \
                              const SgdState&, cudaStream_t);
DPFA_INSTANTIATE(int32_t)
DPFA_INSTANTIATE(int64_t)
#undef DPFA_INSTANTIATE

}  // namespace dpfa::kernels::cuda
