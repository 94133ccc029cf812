// Composition of tilted grid laws, with everything that it can get wrong added up.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "accounting/pld/composed_loss.h"
#include "accounting/pld/grid_law.h"
#include "accounting/pld/spectrum.h"

namespace dpfa::accounting {

class Composer {
 public:
  // Laws are put on grids of at most `resolution` times their deviation; 0: they stay on theirs.
  Composer(double tilt, double resolution, Side side) : tilt_(tilt), resolution_(resolution), side_(side) {}

  // `count` copies of a loss: powers of at most 64 copies on ever coarser grids.
  void add(DiscreteLoss loss, int64_t count);
  // The `count` losses of a group (law_group.h). All groups have one grid; they are multiplied at once.
  void add_group(const std::vector<DiscreteLoss>& nodes, const std::vector<double>& weights, int64_t count);
  // The law of all losses together, at least one: joined by pairs, the narrowest first.
  ComposedLoss finish();

 private:
  void take_infinite(double infinite, double copies);
  GridLaw power(GridLaw base, int64_t copies);
  GridLaw join(GridLaw a, GridLaw b);
  GridLaw join_all();
  void coarsen_to(GridLaw& law, double deviation, double copies);
  size_t most_points() const;
  void change_mass(double log_factor, double copies);
  void add_error(double error, double copies) { error_ += copies * std::log1p(error); }

  double tilt_, resolution_;
  Side side_;
  std::vector<GridLaw> apart_;
  std::vector<LawGroup> groups_;
  bool is_empty_ = false;  // a loss without a law
  double log_finite_ = 0;  // log of the probability that no loss is infinite
  // The tilted mass of the whole composition, and E = expm1(error_) relative to it. What one law gets wrong
  // counts once for each of its copies: |A^n - B^n| <= (|A| + |A - B|)^n - |A|^n in sums of masses.
  double log_mass_ = 0, error_ = 0;
};

}  // namespace dpfa::accounting
