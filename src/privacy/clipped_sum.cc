#include "src/privacy/clipped_sum.h"

#include <string.h>

#include <algorithm>
#include <array>
#include <limits>
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

void ClippedSum::contribute(const RankContribution& contribution, int64_t draw, int64_t first,
                            std::span<int32_t> lanes) const {
  std::array<int64_t, 1024> total;
  for (size_t begin = 0; begin < lanes.size(); begin += total.size()) {
    const std::span<int32_t> chunk = lanes.subspan(begin, std::min(total.size(), lanes.size() - begin));
    const int64_t element = first + static_cast<int64_t>(begin);
    for (size_t i = 0; i < chunk.size(); ++i)
      total[i] = chunk[i] + (wide_.empty() ? 0 : wide_.data()[element + static_cast<int64_t>(i)]);
    contribution.make(static_cast<uint64_t>(draw), static_cast<uint64_t>(element),
                      std::span(total).first(chunk.size()), chunk);
  }
  explicit_bzero(total.data(), sizeof(total));
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
