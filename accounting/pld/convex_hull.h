// The lower one of two curves with kinks on a grid (grid_law.h, kLower), computed from cell to cell.
#pragma once

#include <vector>

namespace dpfa::accounting {

// What a cell around grid point R holds, times e^(tilt log R): `mass` is R Q, `rise` is P - R Q.
struct CurvePoint {
  double mass = 0;
  double rise = 0;
};

// Tilted P-masses on the same points whose curve lies below that of the cells; all >= 0. Empty mass (all 0)
// where nothing but the curve 0 was found.
std::vector<double> contract(std::vector<CurvePoint> cells, double step, double tilt);

}  // namespace dpfa::accounting
