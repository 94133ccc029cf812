// Gaussian noise of a release, added on the integer grid.
//
// Guarantee: for an integer sum x and G ~ N(0, stddev^2) in grid units, x + round(G) is a post-processing of
// the continuous Gaussian mechanism on x, whatever x is (rounding commutes with adding an integer); scaling
// and the cast to float come after it. Adding float noise to a float sum has no such argument: its low bits
// tell x = 0 from x = 1 (Mironov 2012). The normals have a radius with more than 64 bits of range, so their
// tail does not end at 8.6 standard deviations.
//
// The noise of element i of step t is a function of (key, t, i) alone: not of shards, threads or launch
// shape.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/random/generator.h"
#include "src/base/stream_key.h"

namespace dpfa::kernels {

struct NoiseSpec {
  double stddev_in_grid_units = 0;             // 0 adds nothing (only runs without privacy)
  Generator generator = Generator::kChaCha20;  // kPhilox makes no cryptographic claim
};

// out[i] = float(scale * (sum[i] + round(stddev * normal(key, step, first_index + i)))).
// sum and out have equal length. `scale` is the grid step divided by the public divisor. By the calling
// thread alone: callers split the elements, best at multiples of 1024. Throws InternalError for a standard
// deviation outside [0, 2^47], a scale that is not positive, unequal lengths.
void add_noise(const StreamKey& key, uint64_t step, uint64_t first_index, const NoiseSpec& spec, double scale,
               std::span<const int32_t> sum, std::span<float> out);
// For sums beyond 32 bits; |sum| <= 2^62.
void add_noise(const StreamKey& key, uint64_t step, uint64_t first_index, const NoiseSpec& spec, double scale,
               std::span<const int64_t> sum, std::span<float> out);

}  // namespace dpfa::kernels
