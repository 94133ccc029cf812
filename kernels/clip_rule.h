// From the norm N of an example's gradient to the factor by which the gradient is added, C = max_grad_norm:
//   flat       min(1, C / N)
//   automatic  C / (N + gamma), gamma = 0.01: AUTO-S of Bu, Wang, Zha and Karypis 2022 (arXiv 2206.07136)
//
// Guarantee: factor x N <= C up to the rounding of two operations in double, for any norm of f32 numbers.
// Where a gradient's norm is at most N (1 + slack) (norm_route.h), its contribution therefore has norm at
// most C (1 + slack) by either rule: the plan's sensitivity and grid and kLargestInteger are those of both.
//
// What differs is the range of the factor: [0, 1] by flat, [0, 100 C] by automatic, which makes small
// gradients larger. So what adds contributions may rest on factor x value, at most C (1 + slack), and not on
// a factor of at most 1:
//   - errors of norms and products, and of gradients kept in bf16, are bounded relative to N before they are
//     scaled; the roundings of the scaled value are relative to it, and that to the grid comes last;
//   - factor / grid is at most 100 C / (C 2^-23) < 2^30 (src/plan/plan.h), far inside the range of f32;
//   - an absolute error of N, of squares below the range of f32, costs nothing by automatic where it is at
//     most gamma: C (N (1 + slack) + gamma) / (N + gamma) <= C (1 + slack).
// Not finite: 0, which excludes the example. N = 0: 1 by flat, C / gamma by automatic, times zeros.
#pragma once

#include "src/base/host_device.h"
#include "src/base/plant.h"

namespace dpfa::kernels {

enum class ClipRule { kFlat, kAutomatic };

// A number alone is a norm that clips flat.
struct Clipping {
  DPFA_HOST_DEVICE Clipping(double norm, ClipRule clip_rule = ClipRule::kFlat)
      : max_grad_norm(norm), rule(clip_rule) {}
  double max_grad_norm;  // C
  ClipRule rule;
};

inline constexpr double kLargestDouble = 0x1.fffffffffffffp1023;
inline constexpr double kAutomaticGamma = 0.01;

DPFA_HOST_DEVICE inline double clip_factor(double norm, Clipping clip) {
  if (!(norm <= kLargestDouble)) return 0;
  if (DPFA_PLANT("no_clipping")) return 1;
  if (clip.rule == ClipRule::kFlat) return norm <= clip.max_grad_norm ? 1 : clip.max_grad_norm / norm;
  const double gamma = DPFA_PLANT("automatic_without_gamma") ? 0 : kAutomaticGamma;
  const double factor = clip.max_grad_norm / (norm + gamma);
  return DPFA_PLANT("automatic_never_enlarges") && factor > 1 ? 1 : factor;
}

}  // namespace dpfa::kernels
