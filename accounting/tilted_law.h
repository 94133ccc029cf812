// The privacy loss of one Poisson-sampled Gaussian step under an exponential tilt: its characteristic
// function with a bound on every error made, for the second derivation of epsilon (inversion.h).
//
// With r(x) = 1 - q + q exp((2x - 1) / (2 s^2)) the step compares (1-q) N(0, s^2) + q N(1, s^2) with N(0,
// s^2): the loss is log r (removing a record) or -log r (adding one). Tilted by theta > 0 it has the moment
//   M(theta + it) = E_{N(0, s^2)}[ r^(1 + theta + it) ]  (remove)  or  E_{N(0, s^2)}[ r^(-theta - it) ]
//   (add).
// The expectation is a trapezoid sum. Its error is bounded by the integrand's size on a line parallel to the
// real axis, inside the strip where r has no zero (Trefethen and Weideman 2014, theorem 5.1); what lies
// outside the summed range by Gaussian tails; rounding by a running error count in units of 2^-62.
#pragma once

#include <complex>
#include <vector>

namespace dpfa::accounting {

enum class RecordChange { kRemoved, kAdded };

class TiltedLaw {
 public:
  // 0 < sample_rate < 1, noise_multiplier > 0, theta > 0. Good for characteristic functions up to |t| =
  // most_t.
  TiltedLaw(long double sample_rate, long double noise_multiplier, RecordChange change, long double theta,
            long double most_t);
  // log M(theta).
  long double log_moment() const { return log_moment_; }
  // Relative error of M(theta), and absolute error of phi(t) below, at most.
  long double error(long double t) const;
  // Upper bound of |phi| at every t' >= t.
  long double decay(long double t) const;
  size_t points() const { return losses_.size(); }

  // phi(k step) = M(theta + i k step) / M(theta) for k = 0, 1, 2, ... in turn; k step <= most_t.
  class Walk {
   public:
    Walk(const TiltedLaw& law, long double step);
    std::complex<long double> next();

   private:
    void set_phases();
    const TiltedLaw& law_;
    long double step_;
    size_t k_ = 0;
    std::vector<std::complex<long double>> phases_, turns_;
  };

  // Number of points that a law of these parameters would have; for budgets.
  static double points_needed(long double sample_rate, long double noise_multiplier, RecordChange change,
                              long double theta, long double most_t);

 private:
  struct Cell {                   // one piece of the loss axis
    long double begin, end;       // losses, begin < end
    long double lowest, highest;  // bounds of the tilted density of the loss in it
  };
  struct Range {
    long double low, high, spacing;
  };
  static Range range(long double q, long double s, RecordChange change, long double theta,
                     long double most_t);
  void make_cells(long double q, long double s, RecordChange change, long double theta);

  std::vector<long double> losses_, weights_;  // weights sum to 1
  std::vector<Cell> cells_;
  long double log_moment_ = 0;
  long double rounding_ = 0;         // of the weights and their sum
  long double mean_loss_error_ = 0;  // in units of 2^-62
  long double highest_ = 0;          // of the density of the loss
};

}  // namespace dpfa::accounting
