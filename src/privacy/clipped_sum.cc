#include "src/privacy/clipped_sum.h"

#include <algorithm>

#include "src/base/check.h"

namespace dpfa::privacy {

std::span<int32_t> ClippedSum::reserve(int64_t contributions) {
  DPFA_CHECK(contributions <= kFlushEvery, contributions);
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
