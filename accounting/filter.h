// Budgets for schedules that are chosen as the run goes, from released outputs too: adaptive noise or rates,
// early stopping. Compositions of epsilon_of() hold for schedules fixed in advance only.
//
// A filter is asked before each release and admits it only where all that it admitted stays within the
// budget; then everything released, stopped at any time, has the guarantee of the budget. An odometer has no
// budget and states what was lost so far. Neither ever takes back a charge. Sums round up.
//
// All events are of one relation; another one, and what the rule cannot bound (a delta > 0 everywhere, any
// sampling under gaussian()), is UnsupportedEvent. Arguments out of range are ConfigError.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "accounting/event.h"

namespace dpfa::accounting {

// The part of a schedule's rules that filters and odometers share: costs of one kind, summed.
class AdaptiveSum {
 public:
  enum class Unit {
    kRenyi,         // RDP at one order
    kConcentrated,  // rho of zCDP: RDP of at most rho a at every order
    kGaussian,      // 1 / s^2 of plain Gaussians
  };
  AdaptiveSum(Unit unit, double order) : unit_(unit), order_(order) {}

  // Sum after `count` more of `event`, rounded up.
  double with(const Event& event, int64_t count) const;
  void add(const Event& event, int64_t count);
  double spent() const { return spent_; }

 private:
  double cost(const Event& event) const;

  Unit unit_;
  double order_;
  double spent_ = 0;
  std::optional<Relation> relation_;
};

class Filter {
 public:
  // Renyi filter at one fixed order: (order, budget)-RDP (Feldman and Zrnic 2021).
  static Filter renyi(double order, double budget);
  // The one whose guarantee is `epsilon` at `delta`: budget = epsilon - log1p(-1/a) + log(delta a) / (a - 1).
  static Filter renyi_for(double epsilon, double delta, double order);
  // rho-zCDP: the sum bounds every order at once (the same theorem, order by order).
  static Filter concentrated(double rho);
  // mu-GDP for plain Gaussians: sum of 1 / s^2 <= mu^2 (Smith and Thakurta 2022; Koskela et al. 2022).
  static Filter gaussian(double mu);

  // True: charged, the release may be made. False: nothing was charged, nothing may be released; a smaller
  // release may still be admitted.
  [[nodiscard]] bool admit(const Event& event, int64_t count = 1);

  double spent() const { return sum_.spent(); }
  double budget() const { return budget_; }
  // Epsilon at `delta` of whatever the filter admits, also in the future.
  double epsilon(double delta) const;

 private:
  Filter(AdaptiveSum::Unit unit, double order, double budget);

  AdaptiveSum sum_;
  AdaptiveSum::Unit unit_;
  double order_, budget_;
};

// Statement: with probability at least 1 - delta over the run's coins, the privacy loss log P/Q of everything
// released up to any step is at most epsilon() after that step, at all steps at once. So a run that is
// stopped at a time chosen from its outputs still has the epsilon of its stopping time in this sense.
// e^((a-1) (loss - sum of RDP)) is a supermartingale of mean at most 1 under P, so by Ville's inequality the
// loss exceeds the sum by log(1/delta) / (a - 1) at any time with probability at most delta; for m orders
// each with delta / m.
class Odometer {
 public:
  Odometer(std::span<const double> orders, double delta);
  void charge(const Event& event, int64_t count = 1);
  double epsilon() const;

 private:
  std::vector<double> orders_;
  std::vector<AdaptiveSum> sums_;
  double delta_;
};

}  // namespace dpfa::accounting
