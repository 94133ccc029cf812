// Exact delta(epsilon) of single releases and of composed plain Gaussians, and their inverses.
//
// delta(epsilon) = sup over events E of P(E) - e^epsilon Q(E). Formulas: Balle and Wang 2018 for the
// Gaussian; Poisson sampling of a pair with delta_PQ = delta_QP by substitution (both directions of add or
// remove):
//   P = (1-q) N0 + q N1, Q = N0:  delta(e) = q base(e'),             e' = log(1 + (e^e - 1) / q)
//   P = N0, Q = (1-q) N0 + q N1:  delta(e) = q e^(e - e'') base(e''), e'' = -log(1 + (e^-e - 1) / q)
// Values are good to about 1e-14 relative; they are not rounded to either side.
#pragma once

#include <functional>

namespace dpfa::accounting {

enum class Direction {
  kRemove,  // (the dataset with the record) against (without)
  kAdd,     // (without) against (with)
};

// log delta of N(0, sigma^2) against N(1, sigma^2); any real epsilon; -infinity where delta is 0.
double gaussian_log_delta(double sigma, double epsilon);

using LogDelta = std::function<double(double epsilon)>;
// log delta of the Poisson-sampled pair, from the log delta of the pair itself.
double sampled_log_delta(const LogDelta& base, double sample_rate, double epsilon, Direction direction);

// Replacing one record: (1-q) N(0, s^2) + q N(-1, s^2) against (1-q) N(0, s^2) + q N(1, s^2).
double replaced_gaussian_log_delta(double sigma, double sample_rate, double epsilon);

// Smallest epsilon >= 0 with log_delta(epsilon) <= log(delta), rounded up; infinity where there is none up to
// 1e300. `log_delta` must not increase.
double smallest_epsilon(const LogDelta& log_delta, double delta);

}  // namespace dpfa::accounting
