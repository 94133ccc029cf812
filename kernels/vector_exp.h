// exp in f32, written so that the compiler vectorises the loop it is used in.
#pragma once

#include <cstdint>

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

}  // namespace dpfa::kernels
