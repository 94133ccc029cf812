// Sums of squares and products over many numbers by vector instructions, in the order of tiles.h: kLanes sums
// side by side, lane l over the numbers l, l + kLanes, ..., then fold_lanes.
//
// Guarantee: the bits of ordered_sum over the products, from every instruction set. A product of two f32 or
// bf16 numbers is exact in double; products of doubles are rounded before they are added, which asks for
// -ffp-contract=off where these bodies are compiled.
#pragma once

#include <c10/util/BFloat16.h>

#include <bit>
#include <cstdint>
#include <span>

#include "kernels/tiles.h"

namespace dpfa::kernels {

// Squared L2 norm; 0 of nothing.
double sum_of_squares(std::span<const float> values);
double sum_of_squares(std::span<const c10::BFloat16> values);
double sum_of_squares(std::span<const double> values);

// a and b have equal length.
double sum_of_products(std::span<const float> a, std::span<const float> b);
double sum_of_products(std::span<const double> a, std::span<const double> b);

// ---- The body, which becomes part of the function that calls it and takes its instruction set.

namespace lane_sums {

#define DPFA_LANE_SUM inline __attribute__((always_inline))

DPFA_LANE_SUM double value_of(float v) { return v; }
DPFA_LANE_SUM double value_of(double v) { return v; }
DPFA_LANE_SUM double value_of(uint16_t bits) {  // of bf16
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

template <typename T>
DPFA_LANE_SUM double products(const T* a, const T* b, int64_t n) {
  double lanes[kLanes] = {};  // in registers, where kLanes doubles fit
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += value_of(a[i + lane]) * value_of(b[i + lane]);
  for (int lane = 0; i + lane < n; ++lane) lanes[lane] += value_of(a[i + lane]) * value_of(b[i + lane]);
  return fold_lanes(lanes);
}

#undef DPFA_LANE_SUM

}  // namespace lane_sums
}  // namespace dpfa::kernels
