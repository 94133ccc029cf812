// What one element goes through in a release and an update: the formulas of noise.h and optimizer_step.h with
// one rounding per operation, so that the host and a CUDA device compute the same bits. Includers on the host
// are compiled with -ffp-contract=off.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/optimizer_step.h"
#include "src/base/host_device.h"

#if defined(__CUDACC__)
#define DPFA_ELEMENT __host__ __device__ __forceinline__
#else
#define DPFA_ELEMENT [[gnu::always_inline]] inline
#endif

namespace dpfa::kernels {

#if defined(__CUDA_ARCH__)
DPFA_ELEMENT float rounded_mul(float a, float b) { return __fmul_rn(a, b); }
DPFA_ELEMENT float rounded_add(float a, float b) { return __fadd_rn(a, b); }
DPFA_ELEMENT float rounded_sub(float a, float b) { return __fsub_rn(a, b); }
DPFA_ELEMENT float rounded_div(float a, float b) { return __fdiv_rn(a, b); }
DPFA_ELEMENT float rounded_sqrt(float a) { return __fsqrt_rn(a); }
DPFA_ELEMENT double rounded_mul(double a, double b) { return __dmul_rn(a, b); }
DPFA_ELEMENT double rounded_add(double a, double b) { return __dadd_rn(a, b); }
DPFA_ELEMENT double rounded_sub(double a, double b) { return __dsub_rn(a, b); }
DPFA_ELEMENT uint32_t bits_of(float a) { return __float_as_uint(a); }
#else
DPFA_ELEMENT float rounded_mul(float a, float b) { return a * b; }
DPFA_ELEMENT float rounded_add(float a, float b) { return a + b; }
DPFA_ELEMENT float rounded_sub(float a, float b) { return a - b; }
DPFA_ELEMENT float rounded_div(float a, float b) { return a / b; }
DPFA_ELEMENT float rounded_sqrt(float a) { return std::sqrt(a); }
DPFA_ELEMENT double rounded_mul(double a, double b) { return a * b; }
DPFA_ELEMENT double rounded_add(double a, double b) { return a + b; }
DPFA_ELEMENT double rounded_sub(double a, double b) { return a - b; }
DPFA_ELEMENT uint32_t bits_of(float a) { return std::bit_cast<uint32_t>(a); }
#endif

// To the nearest integer, ties to even, for |x| < 2^51, with additions alone.
DPFA_ELEMENT double round_to_integer(double x) {
  constexpr double kShift = 0x1.8p52;
  return rounded_sub(rounded_add(x, kShift), kShift);
}

// int32: both terms are below 2^51, so the sum in double is exact. int64: added as integers, because a sum
// beyond 2^53 would be rounded together with its noise.
DPFA_ELEMENT double add_exactly(int32_t sum, double rounded_noise) {
  return rounded_add(static_cast<double>(sum), rounded_noise);
}
DPFA_ELEMENT double add_exactly(int64_t sum, double rounded_noise) {
  return static_cast<double>(sum + static_cast<int64_t>(rounded_noise));
}

// float(scale (sum + round(stddev normal)))
template <typename Int>
DPFA_ELEMENT float release_element(double stddev, double scale, Int sum, double normal) {
  const double noise = round_to_integer(rounded_mul(stddev, normal));
  return static_cast<float>(rounded_mul(scale, add_exactly(sum, noise)));
}

// bfloat16 nearest to w, ties to even; a NaN stays a (quiet) NaN.
DPFA_ELEMENT uint16_t to_bfloat16(float w) {
  const uint32_t bits = bits_of(w);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const uint32_t quiet_nan = bits >> 16 | 0x40;
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet_nan : rounded);
}

struct AdamwConstants {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon;
  float mhat, vhat;  // 1 / (1 - beta^step)
  float learning_rate, weight_decay;
};

inline AdamwConstants constants_of(const AdamwStep& step, bool decays) {
  const double t = static_cast<double>(step.step);
  return {static_cast<float>(step.beta1),
          static_cast<float>(1 - step.beta1),
          static_cast<float>(step.beta2),
          static_cast<float>(1 - step.beta2),
          static_cast<float>(step.epsilon),
          static_cast<float>(1 / (1 - std::pow(step.beta1, t))),
          static_cast<float>(1 / (1 - std::pow(step.beta2, t))),
          static_cast<float>(step.learning_rate),
          static_cast<float>(decays ? step.weight_decay : 0)};
}

DPFA_ELEMENT void adamw_element(const AdamwConstants& c, float g, float& m, float& v, float& w) {
  m = rounded_add(rounded_mul(c.beta1, m), rounded_mul(c.one_minus_beta1, g));
  v = rounded_add(rounded_mul(c.beta2, v), rounded_mul(c.one_minus_beta2, rounded_mul(g, g)));
  const float root = rounded_add(rounded_sqrt(rounded_mul(v, c.vhat)), c.epsilon);
  const float update = rounded_div(rounded_mul(m, c.mhat), root);
  const float direction = rounded_add(rounded_mul(c.weight_decay, w), update);
  w = rounded_sub(w, rounded_mul(c.learning_rate, direction));
}

struct SgdConstants {
  float momentum, learning_rate, weight_decay;
};

inline SgdConstants constants_of(const SgdStep& step, bool decays) {
  return {static_cast<float>(step.momentum), static_cast<float>(step.learning_rate),
          static_cast<float>(decays ? step.weight_decay : 0)};
}

DPFA_ELEMENT float velocity_element(const SgdConstants& c, float g, float v) {
  return rounded_add(rounded_mul(c.momentum, v), g);
}
DPFA_ELEMENT void sgd_element(const SgdConstants& c, float update, float& w) {
  const float direction = rounded_add(rounded_mul(c.weight_decay, w), update);
  w = rounded_sub(w, rounded_mul(c.learning_rate, direction));
}

}  // namespace dpfa::kernels
