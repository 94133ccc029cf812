// Which ranks share a mask key: a Harary graph, the graph of fewest edges for its connectivity
// (Harary 1962, "The maximum connectivity of a graph").
//
// Guarantee: after removing any `colluders` ranks the others are connected. Then every split of the honest
// ranks into two parts is crossed by a mask that the adversary does not know, so every sum of contributions
// short of the sum over all honest ranks is uniform to it.
#pragma once

#include <vector>

namespace dpfa::comm::secagg {

// Neighbours of `rank` among `ranks`, ascending. Degree colluders + 1, at least 2 (a ring, where only the
// network listens) and at most ranks - 1; one more for one rank where both `ranks` and the degree are odd.
// Throws ConfigError unless 0 <= colluders < ranks.
std::vector<int> mask_neighbours(int rank, int ranks, int colluders);

}  // namespace dpfa::comm::secagg
