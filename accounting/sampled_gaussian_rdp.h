// Renyi divergences of one step of the Poisson-sampled Gaussian, in plain double, to 1e-12 relative for
// rates in [1e-6, 1], noise multipliers in [0.3, 100] and orders in (1, 1000]. Not rounded to either side.
//
// With r = (1 - q) + q e^x, x = (2 z - 1) / (2 s^2) the likelihood ratio and z ~ N(0, s^2), D_a = log E[r^a]
// / (a - 1). E[r^a] is one trapezoid sum over t = z / s: the integrand is analytic within pi s of the real
// line and no larger there than e^(y^2 / 2) times its value on it, so a step of 0.45 min(1, s) leaves e^-38.
// Near 1 the sum is over r^a - 1 - a (r - 1) >= 0, whose last term has mean 0: log E[r^a] keeps its relative
// precision down to the smallest double. Published series in erfc lose it (Mironov, Talwar and Zhang
// 1908.10530).
#pragma once

#include <vector>

#include "accounting/hockey_stick.h"

namespace dpfa::accounting {

// The grid is shared by all orders; it grows on demand, so one object serves one thread.
class SampledGaussianRdp {
 public:
  // sample_rate in [0, 1], noise_multiplier (standard deviation / norm of one record) >= 0.
  SampledGaussianRdp(double sample_rate, double noise_multiplier);

  // The remove direction (with against without), never the smaller one (same paper, theorem 5). Order >= 1, 1
  // being the KL divergence; infinity where there is no noise. At most order / (2 s^2): sampling never adds
  // to the divergence, and that bound stands where a sum would need more than 2e5 points (s < 0.003).
  double operator()(double order);

 private:
  struct Point {
    double half_square;  // t^2 / 2
    double place;        // t
    double excess;       // u = r - 1
    double log_ratio;    // log r
    double log_excess;   // log |u|
    double log_beyond;   // log(r / (q e^x)), where r is mostly that
  };
  bool extend(double end);
  double divergence();
  double log_moment(double order);
  double log_compensated_moment(double order, double log_peak, size_t points, bool with_peak) const;

  double q_, sigma_;
  double step_ = 0, turn_ = 0, pure_ = 0;
  std::vector<Point> points_;
  size_t turned_;  // first point right of turn_
};

// One divergence. The add direction (without against with) is bounded by -log(1 - q).
double sampled_gaussian_rdp(double sample_rate, double noise_multiplier, double order,
                            Direction direction = Direction::kRemove);

}  // namespace dpfa::accounting
