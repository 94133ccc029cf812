// A second derivation of epsilon, for the verifier: a certified bracket of the exact epsilon of a composition
// of Poisson-sampled and plain Gaussian steps, by inversion of its Laplace transform.
//
// For the loss L of the composition with moment M(z) = E_P[exp(z L)] = product of the steps' moments, and any
// theta > 0,
//   delta(e) = E_P[(1 - exp(e - L))+] = 1/(2 pi i) integral over Re z = theta of M(z) exp(-z e) / (z (z+1))
//   dz.
// Its trapezoid sum with spacing 2 pi / P is delta(e) + sum over m != 0 of delta(e + m P) exp(theta m P):
// never below delta, and above it by what Chernoff bounds bound (Poisson summation). No loss is put on a
// grid, nothing is convolved and no Renyi order is chosen, and no code is shared with the accountant: a
// defect of either shows as a contradiction. Errors of the moments (tilted_law.h), of powers and sums and of
// the cut at large |Im z| are added up as bounds; the bracket holds with all of them.
//
// Relation: add_or_remove_one, both directions; the bracket is that of the worse one.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace dpfa::accounting {

struct GaussianSteps {
  double sample_rate;       // in [0, 1]
  double noise_multiplier;  // >= 0
  int64_t count;            // >= 0
};

struct EpsilonBracket {
  double lower;  // the exact epsilon is at least this
  double upper;  // and at most this; infinity where `reason` says why none was certified
  std::string reason;
};

// The exact epsilon at `delta` in (0, 1). `near` is where it is looked for (a reported epsilon); a wrong one
// makes the bracket wider, never wrong. Throws ConfigError on an argument out of range.
EpsilonBracket certified_epsilon(std::span<const GaussianSteps> steps, double delta, double near);

}  // namespace dpfa::accounting
