// Products of tilted laws by the fast Fourier transform, with a bound on everything that rounding and the
// window do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "accounting/pld/grid_law.h"
#include "accounting/pld/law_group.h"

namespace dpfa::accounting {

// A law and a bound on the sum over all losses of |law.mass x (sum before normalisation) - exact|, relative
// to that sum.
struct LawProduct {
  GridLaw law;
  double log_sum = 0;  // log of the sum before normalisation, near 0
  double error = 0;
};

struct LawProducts {
  LawProduct power;  // base^count; law.mass empty for count 0
  LawProduct rest;   // base^rest_count x rest
};

// The factors by which coarsening changed the tilted masses, as logarithms.
struct Coarsened {
  double base = 0, rest = 0;
};

// Both on the step of the arguments, which must be the same. `tail` bounds the mass outside the returned
// windows (Chernoff's bound on the laws themselves), which also is what the cyclic transform folds into them.
// Where a window would need more than `most_points`, the arguments are coarsened to `side` first: the caller
// sees a larger step.
LawProducts multiply(GridLaw base, GridLaw rest, int64_t count, int64_t rest_count, double tail, double tilt,
                     Side side, size_t most_points, Coarsened* coarsened);

// The product of all laws of all groups, which have one step. What the means change is part of the error.
LawProduct multiply_all(const std::vector<LawGroup>& groups, double tail);

}  // namespace dpfa::accounting
