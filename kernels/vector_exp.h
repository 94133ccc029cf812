// exp in f32, written so that the compiler vectorises the loop it is used in. With one rounding per operation
// (-ffp-contract=off) it has the same bits from every instruction set.
#pragma once

#include <cstdint>

#include "kernels/tiles.h"

namespace dpfa::kernels {

// exp(x) for x <= 0 to about 2 ulp (Cephes coefficients). NaN stays NaN; below -87 the result is 0.
inline __attribute__((always_inline)) float exp_of_nonpositive(float x) {
  const float kMagic = 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer in the low bits
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504088896341f + kMagic;
  const float n = shifted - kMagic;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float value = p * r * r + r + 1.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  const uint32_t power = (bits + 127u) << 23;  // 2^n: the low bits of `shifted` hold n
  float scale;
  __builtin_memcpy(&scale, &power, sizeof(scale));
  return x < -87.0f ? 0.0f : value * scale;
}

// One step of exponentiate_row: row[i] := exp(row[i] - m), added to the sum of lane i.
inline __attribute__((always_inline)) void exponentiate_lanes(float* row, int count, float m, float* lanes) {
#pragma omp simd
  for (int lane = 0; lane < count; ++lane) {
    const float e = exp_of_nonpositive(row[lane] - m);
    row[lane] = e;
    lanes[lane] += e;
  }
}

// row (n) := exp(row - m), m its maximum; returns the sum, in f32 in the order of tiles.h.
inline __attribute__((always_inline)) float exponentiate_row(float* row, int64_t n, float m) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) exponentiate_lanes(row + i, kLanes, m, lanes);
  exponentiate_lanes(row + i, static_cast<int>(n - i), m, lanes);
  return fold_lanes(lanes);
}

}  // namespace dpfa::kernels
