// Sums with given content, and a look inside: what the product has no way to do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "src/privacy/clipped_sum.h"

namespace dpfa::test {

struct ClippedSumAccess {
  static constexpr int64_t kFlushEvery = privacy::ClippedSum::kFlushEvery;

  // `values` (P), said to come from `contributions` examples in as many microbatches.
  static privacy::ClippedSum make(std::span<const int32_t> values, int64_t contributions = 1) {
    privacy::ClippedSum sum{FlatBuffer<int32_t>(static_cast<int64_t>(values.size()))};
    for (int64_t k = 0; k < contributions; ++k) sum.reserve(1);
    std::copy(values.begin(), values.end(), sum.sum_.data());
    return sum;
  }
  static std::span<int32_t> reserve(privacy::ClippedSum& sum, int64_t contributions) {
    return sum.reserve(contributions);
  }
  static void clamp(privacy::ClippedSum& sum, int world_size) { sum.clamp(world_size); }
  // What has been moved on to 64 bits and what has not, together.
  static std::vector<int64_t> total(const privacy::ClippedSum& sum) {
    std::vector<int64_t> result(sum.sum_.data(), sum.sum_.data() + sum.sum_.size());
    for (size_t i = 0; i < result.size() && !sum.wide_.empty(); ++i) result[i] += sum.wide_.data()[i];
    return result;
  }
  // What was added since the last move to 64 bits, and whether there are any: both decide what reserve()
  // does.
  static int64_t since_flush(const privacy::ClippedSum& sum) { return sum.since_flush_; }
  static bool has_64_bits(const privacy::ClippedSum& sum) { return !sum.wide_.empty(); }
  static std::vector<int32_t> narrow(const privacy::ClippedSum& sum) {
    return {sum.sum_.data(), sum.sum_.data() + sum.sum_.size()};
  }
};

}  // namespace dpfa::test
