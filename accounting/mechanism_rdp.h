// RDP of simple mechanisms at one order > 1 (or infinity), one release, in nats. Sources beside each.
#pragma once

#include <cstdint>
#include <vector>

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
// sensitivity (Wang, Balle and Kasiviswanathan 1808.00087, theorem 27; between whole orders by convexity).
double sampled_without_replacement_rdp(double q, double sigma, double order);
// Tree aggregation of `steps` values in which a record takes part once: a path of ceil(log2(steps + 1))
// nodes.
double tree_rdp(double sigma, int64_t steps, double order);

}  // namespace dpfa::accounting
