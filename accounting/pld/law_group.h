// The mean of many laws in the place of each of them, with a bound on what that changes.
//
// N laws L_i, each a mixture of a few nodes: L_i = sum_c w_ic A_c, where the weights of a node over all laws
// sum to W_c. With M the mean of the L_i, D_c = A_c - M and x_i = (L_i - M)^ / M^ at a frequency w, the x_i
// sum to 0 and
//   |product of L_i^ / M^^N - 1| <= exp(Y^2 / (2 (1 - Y))) - 1,  Y^2 = sum_c W_c |D_c^|^2 / |M^|^2 < 1/4,
// from |log(1 + x) - x| <= |x|^2 / (2 (1 - |x|)) and sum_i |x_i|^2 <= Y^2, squares being convex. By Taylor's
// theorem around l0, the mean of M,
//   |D^(w)| <= |sum D(l)| + w |sum (l - l0) D(l)| + w^2 / 2 sum (l - l0)^2 |D(l)|,
//   |D^(w)| <= the first two + w^2 / 2 |sum (l - l0)^2 D(l)| + w^3 / 6 sum |l - l0|^3 |D(l)|,
// and also sum |D(l)|; the Euclidean norms over c, weighted by W_c, of these six are kept. Of releases that
// are N of n alike, only frequencies up to a few / sqrt(n) per deviation matter, so Y^2 is about N / n^2
// times a few, however different the laws are. Where Y is not small, the inequality of means bounds
//   |product of L_i^| <= (|M^| + Y |M^| / sqrt(N))^N.
#pragma once

#include <cstdint>
#include <vector>

#include "accounting/pld/grid_law.h"

namespace dpfa::accounting {

struct LawGroup {
  GridLaw law;          // M, of sum 1
  int64_t count = 1;    // N
  double log_mass = 0;  // log of the tilted mass that law.mass sums to 1 for
  double error = 0;     // as DiscreteLoss::error, of M
  // The norms, losses in steps.
  double sum = 0, first = 0, second = 0, balance = 0, third = 0, whole = 0;

  // Bound on |product of L_i^ - M^^N| at frequency w >= 0 per step, where |M^| is within
  // [size - error, size + error].
  double change(double frequency, double size, double error) const;
};

// nodes: of one step and one shift, none of them empty; weights > 0 sum to `count`.
LawGroup mean_of(const std::vector<DiscreteLoss>& nodes, const std::vector<double>& weights, int64_t count);

}  // namespace dpfa::accounting
