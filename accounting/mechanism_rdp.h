// RDP of simple mechanisms at one order > 1 (or infinity), one release, in nats. Sources beside each.
#pragma once

#include <cstdint>
#include <vector>

#include "accounting/event.h"

namespace dpfa::accounting {

// Laplace noise of scale b on a value of sensitivity 1 (Mironov 2017, prop. 6); order 1 is the KL divergence.
double laplace_rdp(double b, double order);
// Noise P(x) ~ exp(-x^2 / (2 sigma^2)) on whole numbers against the same shifted by `shift`: summed directly.
// At most order shift^2 / (2 sigma^2) (Canonne, Kamath and Steinke 2020).
double discrete_gaussian_rdp(double sigma, int64_t shift, double order);
// Symmetric Skellam noise of the given variance on whole numbers, shifted: summed directly.
double skellam_rdp(double variance, int64_t shift, double order);
// Bound for vectors with L1 and L2 sensitivities, whole orders (Agarwal, Kairouz and Liu 2021, theorem 3.5).
double skellam_rdp_bound(double variance, double l1, double l2, double order);
// Reports the true one of `buckets` values with probability 1 - p + p / buckets, each other one with p /
// buckets. Replacing a value by another one, or by a uniform report (`special`), the worse direction.
double randomized_response_rdp(double p, double buckets, double order, bool special);
// Epsilon-DP exponential mechanism by bounded range (Dong, Durfee and Rogers 2020).
double exponential_mechanism_rdp(double epsilon, double order);
// Gaussian on `q` n of n records without replacement, replacing one record; noise relative to that relation's
// sensitivity (Wang, Balle and Kasiviswanathan 1808.00087, theorem 27; between whole orders, and below 2, by
// convexity). Order 1 gets the bound of order 2. The even moments are shared by all orders.
class WithoutReplacementRdp {
 public:
  WithoutReplacementRdp(double q, double sigma) : q_(q), sigma_(sigma) {}
  double operator()(double order);

 private:
  double log_moment(double whole_order);
  double log_even_moment(size_t half);

  double q_, sigma_;
  std::vector<double> even_ = {0.0};  // log E[(1 - w)^(2 i)] (log_even_difference_moment)
};
double sampled_without_replacement_rdp(double q, double sigma, double order);
// Poisson-sampled Gaussian when a record is replaced, so that the sum moves by up to 2 from one side to the
// other; noise relative to the norm of one record. Smallest of: the weak triangle inequality over the sum
// without the record (Mironov 2017, prop. 11: (a - 1/p) / (a - 1) D_(pa)(with, without) + D_b(without, with),
// b = (a - 1/p) / (1 - 1/p), p = 2, nearer 1 for a < 3/2), joint convexity (log(1 - q + q e^((a-1) D)) / (a -
// 1) with D = 2 a / s^2), and D itself.
double replaced_sampled_gaussian_rdp(double q, double sigma, double order);
// P[Bin(dataset_size - 1, sample_rate) >= max_batch], rounded up: the others alone fill the batch. Then a
// drawn record takes the place of a random other one. The law of the others' kept subset does not depend on
// how many there were, so P is a mixture, with that known probability p, of the Poisson pair at distance 1
// and of one with rate at most q at distance 2; p grows with the number of records, hence an upper bound on
// it is enough: moment <= (1 - p) A(q, s) + p A(q, s / 2).
double truncation_probability(const TruncatedPoissonGaussianEvent& event);
// Whole orders k <= a: sum_k Bin(k; a, q) e^B(k(k-1)/(2 s^2)), where B(c) = c D^2 for whole contributions and
// c D^2 / (1 - c/2) - d/2 log(1 - c/2) where d coordinates are dithered: the dithered difference is at each
// coordinate sub-Gaussian around the contribution with proxy 1/4. Infinite for c >= 2. Between whole orders
// by convexity. For whole contributions and s >= 4 also every order by the continuous Gaussian of variance
// s^2 - 8, of which the discrete one is a randomised rounding with relative error e <= 4.01 e^(-16 pi^2) per
// coordinate (Peikert 2010), which adds d e (2 a - 1) / (a - 1).
double sampled_discrete_gaussian_rdp(const PoissonSampledDiscreteGaussianEvent& event, double order);
// B(c) for d dithered coordinates, given D^2.
double dithered_log_moment(double square, double d, double c);
// P(x) ~ exp(-a |x|) on whole numbers, shifted: directly. The moment is a sum of exponentials in the shift,
// log-convex and 1 at 0, so an L1 sensitivity spread over coordinates costs no more than on one.
double discrete_laplace_rdp(double parameter, int64_t shift, double order);
// Any epsilon-DP mechanism: that of the binary randomized response which dominates it.
double pure_dp_rdp(double epsilon, double order);
// Tree aggregation of `steps` values in which a record takes part once: a path of ceil(log2(steps + 1))
// nodes.
double tree_rdp(double sigma, int64_t steps, double order);

}  // namespace dpfa::accounting
