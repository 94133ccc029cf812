// Privacy losses on a grid: laws that are certainly worse, or certainly better, than the loss they stand for.
//
// Both constructions work on the curve x -> sup over events E of P(E) - x Q(E). It is convex; a law on the
// grid points R_i = e^(step i) is a piecewise linear convex curve with its kinks there, and a pair with the
// larger curve dominates, also in every composition (Zhu, Dong and Wang 2022, theorem 10).
//  - kUpper connects the dots (Doroshenko et al. 2022): the chord of the curve between grid points, written
//    as a split of each loss between its two neighbours that keeps its masses under both P and Q.
//  - kLower takes, at every R_i, the smaller of the two tangents that touch the curve in the middle of the
//    cells beside it (for a discrete law: halfway between R_i and its neighbours), and the lower convex hull
//    of these points. Each chord between two points lies below the tangent of that cell, hence below the
//    curve. Stretches of points at different distances are contracted one by one: the curve of events of
//    disjoint losses is the sum of their curves.
// Each moves the variance of a smooth law of deviation s by at most about step^2 / 4, upwards or downwards.
//
// Steps are powers of two and a grid is coarsened around its index 0, so grids are nested. Index 0 lies at
// `shift`, where most of the loss of one release can be concentrated on much less than a step. A law is
// tilted: mass[i] is proportional to P-mass x e^(tilt x loss).
#pragma once

#include <cstdint>
#include <vector>

#include "accounting/pld/loss_pair.h"

namespace dpfa::accounting {

enum class Side { kUpper, kLower };

struct GridLaw {
  double step = 1, shift = 0;
  int64_t first = 0;         // mass[0] lies at loss shift + step x first
  std::vector<double> mass;  // sums to 1 up to rounding

  double loss(size_t i) const { return shift + step * static_cast<double>(first + static_cast<int64_t>(i)); }
  double mean() const;
  double deviation() const;
};

// Largest power of two that is at most `limit` > 0.
double power_of_two_below(double limit);

struct GridRange {
  double step, shift;
  int64_t first, last;
  // Around these losses, up to `reach`, every point of the grid is used; farther away fewer and fewer, never
  // farther apart than `widest` (any points make a valid law).
  double near = 0, also_near = 0, reach = 0, widest = 0;
  bool round_up = false;  // each loss to the next point (kUpper), for comparisons
};

// One release on a grid and in one direction.
struct DiscreteLoss {
  GridLaw law;
  double log_mass;  // log of the tilted mass that law.mass sums to 1 for
  double error;     // bound on the rounding of law.mass, summed, relative to its sum of 1
  double infinite;  // mass of P at an infinite loss: that of the pair, for kUpper also what lies above the
                    // range
};
// Losses outside the range: kUpper moves those below to `first` and those above to infinity; kLower drops the
// former and moves the latter down to `last`. No mass at all leaves an empty law.
DiscreteLoss discretise(const LossPair& pair, const GridRange& range, double tilt, Side side);

// Moves the law to the grid of `factor` (a power of two) times its step and returns the log of the factor by
// which its tilted mass changed.
double coarsen(GridLaw& law, int64_t factor, double tilt, Side side);

}  // namespace dpfa::accounting
