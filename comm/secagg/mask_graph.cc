#include "comm/secagg/mask_graph.h"

#include <algorithm>
#include <set>
#include <string>

#include "src/base/check.h"
#include "src/base/error.h"

namespace dpfa::comm::secagg {

std::vector<int> mask_neighbours(int rank, int ranks, int colluders) {
  DPFA_CHECK(ranks >= 1 && rank >= 0 && rank < ranks, "rank ", rank, " of ", ranks);
  if (colluders < 0 || colluders >= ranks)
    throw ConfigError("colluding_ranks = " + std::to_string(colluders) + " of " + std::to_string(ranks) +
                      " ranks: at least one rank must be honest, so give a number from 0 to " +
                      std::to_string(ranks - 1));
  const int degree = std::min(std::max(2, colluders + 1), ranks - 1);
  std::set<int> neighbours;
  const auto join = [&](int other) { neighbours.insert((other % ranks + ranks) % ranks); };
  for (int distance = 1; distance <= degree / 2; ++distance) {
    join(rank + distance);
    join(rank - distance);
  }
  if (degree % 2 == 1) {
    if (ranks % 2 == 0) {
      join(rank + ranks / 2);
    } else {
      // Diagonals i - i + (ranks - 1) / 2 for i <= (ranks - 1) / 2: each rank has one, the middle one two.
      const int half = (ranks - 1) / 2;
      if (rank <= half) join(rank + half);
      if (rank >= half) join(rank - half);
    }
  }
  neighbours.erase(rank);
  return {neighbours.begin(), neighbours.end()};
}

}  // namespace dpfa::comm::secagg
