// How an example's product joins a sum over examples: scaled in f32, entry by entry, after the product is
// complete. Scaling the rows of an operand in bfloat16 before the product would round every entry by up to
// 2^-9, and where entries cancel the contribution could exceed the clipping norm. The same bits on the host
// and on the device.
#pragma once

#include "kernels/element_step.h"
#include "src/base/plant.h"

namespace dpfa::kernels::cuda {

DPFA_ELEMENT float scaled_entry(float scale, float product) {
  const float scaled = rounded_mul(scale, product);
  if (!DPFA_PLANT("bf16_row_scaling")) return scaled;
  const uint32_t bits = static_cast<uint32_t>(to_bfloat16(scaled)) << 16;
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

// sum + scale product, rounded once.
DPFA_ELEMENT float add_scaled(float sum, float scale, float product) {
  if (DPFA_PLANT("bf16_row_scaling")) return rounded_add(sum, scaled_entry(scale, product));
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(scale, product, sum);
#else
  return std::fma(scale, product, sum);
#endif
}

// scale product to the nearest integer, ties to even; |scale product| < 2^31.
DPFA_ELEMENT int32_t scaled_integer(float scale, float product) {
#if defined(__CUDA_ARCH__)
  return __float2int_rn(scaled_entry(scale, product));
#else
  return static_cast<int32_t>(std::nearbyint(scaled_entry(scale, product)));
#endif
}

}  // namespace dpfa::kernels::cuda
