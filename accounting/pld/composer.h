// Composition of tilted grid laws, with everything that it can get wrong added up.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "accounting/pld/composed_loss.h"
#include "accounting/pld/grid_law.h"
#include "accounting/pld/spectrum.h"

namespace dpfa::accounting {

class Composer {
 public:
  // Laws are put on grids of at most `resolution` times their deviation; 0: they stay on theirs.
  Composer(double tilt, double resolution, Side side) : tilt_(tilt), resolution_(resolution), side_(side) {}

  // The law of all losses together, counts[i] copies of loss(i), which is asked for once and in order: powers of
  // at most 64 copies on ever coarser grids; distinct laws are then joined, the narrowest first.
  ComposedLoss compose(const std::function<DiscreteLoss(size_t)>& loss, const std::vector<int64_t>& counts);

 private:
  GridLaw power(GridLaw base, int64_t copies);
  GridLaw join(GridLaw a, GridLaw b);
  GridLaw join_all(std::vector<GridLaw> laws);
  // Laws of one step that are multiplied at once, as many as fit a window.
  struct Block {
    std::vector<LawCount> laws;
    double variance = 0;
  };
  GridLaw finish(Block& block);
  void coarsen_to(GridLaw& law, double deviation, double copies);
  size_t most_points() const;
  void change_mass(double log_factor, double copies);
  void add_error(double error, double copies) { error_ += copies * std::log1p(error); }

  double tilt_, resolution_;
  Side side_;
  // The tilted mass of the whole composition, and E = expm1(error_) relative to it. What one law gets wrong
  // counts once for each of its copies: |A^n - B^n| <= (|A| + |A - B|)^n - |A|^n in sums of masses.
  double log_mass_ = 0, error_ = 0;
};

}  // namespace dpfa::accounting
