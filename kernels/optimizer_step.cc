#include "kernels/optimizer_step.h"

#include <algorithm>
#include <cmath>

#include "kernels/element_step.h"
#include "src/base/check.h"
#include "src/base/clones.h"

namespace dpfa::kernels {
namespace {

// One loop per setting. Products and sums are never fused (see CMakeLists.txt), so every clone computes the
// same bits.

constexpr int64_t kChunk = 1 << 12;  // what a thread takes at a time
constexpr int64_t kPiece = 256;      // the gradient of a piece and its state stay in the first-level cache
constexpr int64_t kFloatsPerLine = 16;

DPFA_CLONES void adamw_run(const AdamwConstants& c, int64_t count, const float* __restrict g,
                           float* __restrict m, float* __restrict v, float* __restrict w,
                           uint16_t* __restrict compute) {
  for (int64_t i = 0; i < count; ++i) {
    adamw_element(c, g[i], m[i], v[i], w[i]);
    if (compute != nullptr) compute[i] = to_bfloat16(w[i]);
  }
}

DPFA_CLONES void sgd_run(const SgdConstants& c, int64_t count, const float* __restrict g, float* __restrict v,
                         float* __restrict w, uint16_t* __restrict compute) {
  for (int64_t i = 0; i < count; ++i) {
    float update = g[i];
    if (v != nullptr) v[i] = update = velocity_element(c, g[i], v[i]);
    sgd_element(c, update, w[i]);
    if (compute != nullptr) compute[i] = to_bfloat16(w[i]);
  }
}

void check_sizes(std::span<const DecayRange> ranges, size_t parameters, size_t compute) {
  DPFA_CHECK(compute == 0 || compute == parameters, compute, " compute copies for ", parameters, " weights");
  check_decay_ranges(ranges, static_cast<int64_t>(parameters));
}

// Asks for the state of a piece before its gradient is made: where that takes arithmetic (noise), memory
// would lie idle meanwhile. `state` may be empty.
void prefetch(std::span<const float> state, int64_t begin, int64_t end) {
  end = std::min(end, static_cast<int64_t>(state.size()));
  for (int64_t i = begin; i < end; i += kFloatsPerLine) __builtin_prefetch(state.data() + i, /*write=*/1, 3);
}

// Calls run(begin, end, decays, gradient of begin) for pieces of at most kPiece elements that lie in one
// range each. `states`: what run() reads and writes beside the gradient.
template <typename Run>
void for_each_piece(std::span<const DecayRange> ranges, int64_t parameters, const GradientChunk& gradient,
                    std::initializer_list<std::span<const float>> states, const Run& run) {
  const int64_t chunks = (parameters + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t end = std::min(parameters, (chunk + 1) * kChunk);
    int64_t begin = chunk * kChunk;
    alignas(64) float scratch[kPiece];
    auto range = std::partition_point(ranges.begin(), ranges.end(),
                                      [begin](const DecayRange& r) { return r.end <= begin; });
    while (begin < end) {
      const int64_t piece_end = std::min(end, begin + kPiece);
      for (const std::span<const float> state : states) prefetch(state, begin, piece_end);
      const float* values = gradient(begin, {scratch, static_cast<size_t>(piece_end - begin)});
      while (begin < piece_end) {
        const int64_t stop = std::min(piece_end, range->end);
        if (stop > begin) run(begin, stop, range->decays, values);
        values += stop - begin;
        begin = stop;
        if (begin == range->end) ++range;
      }
    }
  }
}

template <typename T>
T* at(std::span<T> values, int64_t index) {
  return values.empty() ? nullptr : values.data() + index;
}

}  // namespace

void check_decay_ranges(std::span<const DecayRange> ranges, int64_t count) {
  int64_t end = 0;
  for (const DecayRange& range : ranges) {
    DPFA_CHECK(range.begin == end && range.end >= range.begin,
               "decay ranges must follow each other without gaps: [", range.begin, ", ", range.end,
               ") after ", end);
    end = range.end;
  }
  DPFA_CHECK(end == count, "decay ranges end at ", end, " of ", count, " weights");
}

void adamw_step(const AdamwStep& step, std::span<const DecayRange> ranges, const GradientChunk& gradient,
                std::span<float> m, std::span<float> v, std::span<float> weights,
                std::span<uint16_t> compute) {
  check_sizes(ranges, weights.size(), compute.size());
  DPFA_CHECK(m.size() == weights.size() && v.size() == weights.size(),
             "moments must have the weights' length");
  DPFA_CHECK(step.step >= 1, "AdamW counts its steps from 1, got ", step.step);
  const AdamwConstants decaying = constants_of(step, true), plain = constants_of(step, false);
  const int64_t count = static_cast<int64_t>(weights.size());
  const auto run = [&](int64_t begin, int64_t end, bool decays, const float* g) {
    adamw_run(decays ? decaying : plain, end - begin, g, at(m, begin), at(v, begin), at(weights, begin),
              at(compute, begin));
  };
  for_each_piece(ranges, count, gradient, {m, v, weights}, run);
}

void sgd_step(const SgdStep& step, std::span<const DecayRange> ranges, const GradientChunk& gradient,
              std::span<float> v, std::span<float> weights, std::span<uint16_t> compute) {
  check_sizes(ranges, weights.size(), compute.size());
  DPFA_CHECK(v.size() == weights.size() || (v.empty() && step.momentum == 0),
             "momentum needs a buffer of the weights' length");
  const SgdConstants decaying = constants_of(step, true), plain = constants_of(step, false);
  const int64_t count = static_cast<int64_t>(weights.size());
  const auto run = [&](int64_t begin, int64_t end, bool decays, const float* g) {
    sgd_run(decays ? decaying : plain, end - begin, g, at(v, begin), at(weights, begin), at(compute, begin));
  };
  for_each_piece(ranges, count, gradient, {v, weights}, run);
}

}  // namespace dpfa::kernels
