// delta(epsilon) of a composed, tilted loss law with all its allowances: one side, one direction.
#pragma once

#include <vector>

#include "accounting/pld/grid_law.h"

namespace dpfa::accounting {

class ComposedLoss {
 public:
  // The finite losses have P-mass e^(log_mass - tilt loss) x law.mass; `error` bounds what the sum of
  // |law.mass - exact| can be; `infinite` is the P-mass of infinite losses. An empty law on the upper side
  // means that nothing is known: delta is 1.
  ComposedLoss(GridLaw law, double tilt, double log_mass, double error, double infinite, Side side);

  // Any real epsilon; at most 0.
  double log_delta(double epsilon) const;
  // kUpper: the smallest epsilon >= 0 found with delta(epsilon) <= delta, else infinity. kLower: the largest
  // one found with delta(epsilon) > delta, else 0. Allowances make log_delta useless far from the tilt's
  // epsilon, so the lower search starts above it.
  double epsilon(double delta) const;

 private:
  double finite_log_delta(double epsilon) const;

  GridLaw law_;
  double tilt_, log_mass_, error_, infinite_;
  Side side_;
  // Sums over the losses l from the i-th one on of mass e^(-tilt (l - loss(i))), and of the same times
  // e^(-(l - loss(i))): the masses of P and Q there, as seen from loss(i).
  std::vector<double> p_above_, q_above_;
};

}  // namespace dpfa::accounting
