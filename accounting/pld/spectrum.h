// Products of tilted laws by the fast Fourier transform, with a bound on everything that rounding and the
// window do.
#pragma once

#include <cstdint>

#include "accounting/pld/grid_law.h"

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

// Both on the step of the arguments, which must be the same. `tail` bounds the mass outside the returned
// windows (Chernoff's bound on the laws themselves), which also is what the cyclic transform folds into them.
// Where a window would need more than `most_points`, the arguments are coarsened to `side` first (the caller
// sees a larger step; `coarsened` gets the log of the factor of base's tilted mass and of rest's).
struct Coarsened {
  double base = 0, rest = 0;
};
LawProducts multiply(GridLaw base, GridLaw rest, int64_t count, int64_t rest_count, double tail, double tilt,
                     Side side, Coarsened* coarsened);

}  // namespace dpfa::accounting
