// Renyi differential privacy: divergences of the events, and their conversion to (epsilon, delta).
//
// RDP of order a > 1 is D_a(P || Q) = log E_Q[(P/Q)^a] / (a - 1) in nats; order 1 is the KL divergence.
// Values are good to about 1e-12 relative (not relative to 1: a step with q = 1e-7 has an RDP near 1e-15, and
// it is summed a million times); they are not rounded to either side.
#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "accounting/event.h"
#include "accounting/sampled_gaussian_rdp.h"
#include "accounting/schedule.h"

namespace dpfa::accounting {

using RdpCurve = std::function<double(double order)>;

// One release of any event, in its worse direction, and the sum over a schedule; order >= 1 or infinite. The
// sum leaves out the deltas of approximate_dp events: with probability e^log_no_failure() none of them
// fails, and only then the divergence holds. What could not be computed is infinite.
double rdp_of(const Event& event, double order);
double rdp_of(const Schedule& schedule, double order);
// The same sum for many orders: grids are shared by orders. Of more than 512 Poisson-sampled Gaussians it is
// that of a dominating schedule (rates rounded up, noise down, by the least common ratio that leaves no
// more). One object serves one thread.
class ScheduleRdp {
 public:
  explicit ScheduleRdp(const Schedule& schedule);
  double operator()(double order) const;

 private:
  std::vector<std::pair<RdpCurve, double>> terms_;  // with their counts
};
double log_no_failure(const Schedule& schedule);  // sum of count log(1 - delta), at most 0

// Epsilon of an RDP bound `rdp` at `order`: the smaller of Canonne, Kamath and Steinke (2004.00010, prop. 12)
// and 0 where delta >= sqrt(1 - e^-rdp) (Bretagnolle-Huber; the only one that applies at order 1). A negative
// or NaN rdp is a failed computation and counts as infinity.
double epsilon_from_rdp(double rdp, double order, double delta);
// log delta at `epsilon` by the same two bounds; at most 0.
double log_delta_from_rdp(double rdp, double order, double epsilon);

struct OrderBound {
  double value;  // epsilon or log delta
  double order;  // that gave it
};
// The best bound over log-spaced orders from 1.01 (extended where the best lies at an end), refined around
// the best one, and the order infinity. Any order gives a valid bound, so a search that misses the best one
// is loose, never wrong.
OrderBound best_epsilon(const RdpCurve& curve, double delta);
OrderBound best_log_delta(const RdpCurve& curve, double epsilon);
// The best bound over given orders.
OrderBound best_epsilon(const RdpCurve& curve, std::span<const double> orders, double delta);
OrderBound best_log_delta(const RdpCurve& curve, std::span<const double> orders, double epsilon);

// log E[(1 - w)^power] for even power > 0 and w = exp((2 z - 1) / (2 s^2)), z ~ N(0, s^2): the alternating
// sum over binomials of the moments e^(i (i - 1) / (2 s^2)), without its cancellation. Infinity where that
// would take more than 2e5 points.
double log_even_difference_moment(double noise_multiplier, int power);

}  // namespace dpfa::accounting
