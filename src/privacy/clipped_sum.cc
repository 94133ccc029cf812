#include "src/privacy/clipped_sum.h"

#include <string.h>

#include <algorithm>
#include <array>
#include <vector>

#include "src/base/check.h"
#include "src/base/plant.h"
#include "src/base/random/dither.h"

namespace dpfa::privacy {
namespace {

// The planted bug "dither_per_microbatch": what the microbatches so far left is rounded before the next
// joins.
void dither_so_far(std::span<int32_t> sum, int64_t microbatches) {
  constexpr int kShift = 12;
  std::vector<int64_t> values(sum.begin(), sum.end());
  dither(StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), static_cast<uint64_t>(microbatches), 0, kShift, values);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = static_cast<int32_t>(values[i] << kShift);
}

}  // namespace

std::span<int32_t> ClippedSum::reserve(int64_t contributions) {
  DPFA_CHECK(contributions <= kFlushEvery, contributions);
  if (DPFA_PLANT("dither_per_microbatch")) dither_so_far(sum_.span(), reservations_);
  if (since_flush_ + contributions > kFlushEvery) {
    if (wide_.empty()) wide_ = FlatBuffer<int64_t>(sum_.size());
    int64_t* wide = wide_.data();
    int32_t* sum = sum_.data();
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < sum_.size(); ++i) {
      wide[i] += sum[i];
      sum[i] = 0;
    }
    since_flush_ = 0;
  }
  since_flush_ += contributions;
  ++reservations_;
  return sum_.span();
}

void ClippedSum::contribute(const RankContribution& contribution, int64_t draw) {
  constexpr int64_t kChunk = 4096;
  const int64_t size = sum_.size(), chunks = (size + kChunk - 1) / kChunk;
  const int64_t* wide = wide_.empty() ? nullptr : wide_.data();
  int32_t* sum = sum_.data();
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kChunk, count = std::min(kChunk, size - begin);
    std::array<int64_t, kChunk> total;
    for (int64_t i = 0; i < count; ++i) total[i] = sum[begin + i] + (wide != nullptr ? wide[begin + i] : 0);
    contribution.make(static_cast<uint64_t>(draw), static_cast<uint64_t>(begin),
                      std::span(total).first(count), std::span(sum + begin, static_cast<size_t>(count)));
    explicit_bzero(total.data(), sizeof(total));
  }
}

void ClippedSum::clamp(int world_size) {
  if (world_size == 1 && wide_.empty()) return;  // one rank may use all 32 bits
  const int64_t limit = std::numeric_limits<int32_t>::max() / world_size;
  const int64_t* wide = wide_.data();
  int32_t* sum = sum_.data();
  const bool has_wide = !wide_.empty();
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < sum_.size(); ++i) {
    const int64_t total = sum[i] + (has_wide ? wide[i] : 0);
    sum[i] = static_cast<int32_t>(std::clamp(total, -limit, limit));
  }
}

}  // namespace dpfa::privacy
