#include "kernels/cuda/token_groups.h"

#include <algorithm>
#include <numeric>

#include "src/base/check.h"

namespace dpfa::kernels::cuda {

TokenGroups token_groups(std::span<const int64_t> ids, std::span<const int64_t> offsets) {
  DPFA_CHECK(!offsets.empty() && offsets.front() >= 0 && offsets.back() <= static_cast<int64_t>(ids.size()),
             ids.size(), " ids for examples that end at ", offsets.empty() ? -1 : offsets.back());
  TokenGroups result;
  result.first_group.push_back(0);
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    DPFA_CHECK(offsets[b] <= offsets[b + 1], "offsets must not descend");
    std::vector<int64_t> order(offsets[b + 1] - offsets[b]);
    std::iota(order.begin(), order.end(), offsets[b]);
    std::stable_sort(order.begin(), order.end(), [&](int64_t s, int64_t t) { return ids[s] < ids[t]; });
    for (size_t i = 0; i < order.size(); ++i) {
      if (i == 0 || ids[order[i]] != ids[order[i - 1]]) {
        result.ids.push_back(ids[order[i]]);
        result.first_position.push_back(static_cast<int64_t>(result.positions.size()));
      }
      result.positions.push_back(order[i]);
    }
    result.first_group.push_back(static_cast<int64_t>(result.ids.size()));
  }
  result.first_position.push_back(static_cast<int64_t>(result.positions.size()));
  return result;
}

}  // namespace dpfa::kernels::cuda
