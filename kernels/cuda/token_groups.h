// The rows of each example sorted by token id: what a sparse embedding gradient is summed over.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dpfa::kernels::cuda {

// Example b's groups are [first_group[b], first_group[b + 1]), ids ascending and distinct within it; group
// u's rows are positions[first_position[u]] ... positions[first_position[u + 1] - 1], ascending.
struct TokenGroups {
  std::vector<int64_t> positions;       // (tokens)
  std::vector<int64_t> first_position;  // (U + 1)
  std::vector<int64_t> ids;             // (U)
  std::vector<int64_t> first_group;     // (B + 1)
};

// ids (tokens) of all rows, offsets (B + 1). O(n log n) in an example's length.
TokenGroups token_groups(std::span<const int64_t> ids, std::span<const int64_t> offsets);

}  // namespace dpfa::kernels::cuda
