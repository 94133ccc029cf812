// A second derivation of what noise shares cost, for the verifier: a certified bracket of the exact epsilon,
// by code and formulas that the accountant (noise_shares.h) does not share.
//
// S^2 = (N - t) share_sigma^2 is the noise that is left. For r^2 = 6, docs/dithered_rounding.md section 8:
//   upper: a step is a randomised rounding of the sampled Gaussian of noise sqrt(S^2 - r^2) / R, where the
//     rounded difference is longer than R with a probability of at most 1e-9 delta over all steps; or, where
//     that gives less, the sum of section 3 at whole orders and chords between them, written out in 50
//     digits;
//   lower: with continuous Gaussian noise of variance r^2 added to its output, a step whose record
//   contributes
//     floor(sensitivity) in one coordinate (which no dither moves) is the sampled Gaussian of noise
//     sqrt(S^2 + r^2) / floor(sensitivity). Post-processing raises no epsilon.
// Both Gaussians are those of inversion.h; errors of rounding, of the sums of shares and of the sampler are
// added to one end and taken from the other. Relation: add_or_remove_one, both directions.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace dpfa::accounting {

struct ShareSteps {  // fields as in noise_shares.h
  double sample_rate, share_sigma;
  int64_t ranks, colluding_ranks;
  double sensitivity;
  int64_t rounded_dimension, dimension;
  int64_t count;
};

struct ShareBracket {
  double lower;        // the exact epsilon is at least this
  double upper;        // and at most this
  double least_upper;  // the bound of `upper` is certainly not below this, however wide its own bracket is
  std::string reason;  // why there is none; then 0 and infinity
};

// At `delta` in (0, 1); `near`: where it is looked for. Throws ConfigError on an argument out of range, or
// where share_sigma is below 4 or nobody is left outside the colluding ranks.
ShareBracket certified_share_epsilon(std::span<const ShareSteps> steps, double delta, double near);

}  // namespace dpfa::accounting
