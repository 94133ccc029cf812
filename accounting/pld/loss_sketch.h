// A rough view of a loss pair from some hundred intervals, for choosing tilt and grid; bounds nothing.
#pragma once

#include <vector>

#include "accounting/pld/loss_pair.h"

namespace dpfa::accounting {

class LossSketch {
 public:
  explicit LossSketch(const LossPair& pair);

  double log_moment(double tilt) const;  // log E_P[e^(tilt loss)]
  struct Moments {
    double mean, deviation;
  };
  Moments moments(double tilt) const;  // of the loss under the tilted law
  // A loss above which P has at most `mass`; a loss below which the tilted law has at most `mass`.
  double top(double mass) const;
  double bottom(double mass, double tilt) const;
  double median() const;  // under P
  // The losses up to `limit`, which must be a value of top().
  LossSketch below(double limit) const;
  double largest() const { return intervals_.empty() ? 0 : intervals_.back().upper; }

 private:
  struct Interval {
    double lower, upper, loss, p;
  };
  LossSketch() = default;

  std::vector<Interval> intervals_;
};

}  // namespace dpfa::accounting
