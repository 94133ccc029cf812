#include "comm/cuda/slice_powers.h"

#include "src/base/check.h"

namespace dpfa::comm::cuda {

SlicePowers slice_powers(const std::array<uint64_t, 2>& points, int group_lanes) {
  using secagg::multiply_mod;
  DPFA_CHECK(group_lanes > 0 && group_lanes <= kMostLanes, "groups of ", group_lanes, " lanes");
  SlicePowers powers = {};
  for (int point = 0; point < 2; ++point) {
    uint64_t power = 1;  // z^(i + 1) after the step for lane i
    for (int i = 0; i < group_lanes; ++i) {
      power = multiply_mod(power, points[static_cast<size_t>(point)]);
      for (int limb = 0; limb < 3; ++limb)
        powers.lane[(3 * point + limb) * group_lanes + i] =
            static_cast<int32_t>(power >> (limb * secagg::kLimbBits) & secagg::kLimbMask);
    }
    uint64_t offset = 1;  // z^(group_lanes t)
    for (int t = 0; t < kThreads; ++t) {
      powers.thread[point][t] = offset;
      offset = multiply_mod(offset, power);
    }
    for (int k = 0; k < kSquares; ++k) {
      powers.block_square[point][k] = offset;
      offset = multiply_mod(offset, offset);
    }
  }
  return powers;
}

}  // namespace dpfa::comm::cuda
