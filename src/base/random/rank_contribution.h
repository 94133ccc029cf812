// What one rank adds to a sum of noise shares: its own sum, rounded by one dither, cut, plus its share of the
// noise. The un-noised integers exist in a chunk's cache lines only.
//
// Guarantee: lanes differ between neighbouring sums by the dithered difference, cut to `clamp` (1-Lipschitz
// in each coordinate, so no norm grows), under independent discrete Gaussian noise. Everything is a function
// of (keys, draw, element index): neither chunks nor threads change a bit. The work does not depend on values
// (discrete_gaussian.h says what does).
#pragma once

#include <cstdint>
#include <span>

#include "src/base/random/discrete_gaussian.h"
#include "src/base/stream_key.h"

namespace dpfa {

struct RankShare {
  int dither_shift = 0;    // bits between the grid of the sum and that of the lanes; 0: nothing is rounded
  int64_t clamp = 0;       // largest |coordinate| before the noise, in lane units
  double share_sigma = 0;  // of the discrete Gaussian, in lane units
};

class RankContribution {
 public:
  // Both keys are this rank's alone, fresh at each process start.
  RankContribution(const RankShare& share, const StreamKey& noise, const StreamKey& dither);

  // lanes[j] := clamp(dither(sum[j])) + noise of element first + j of draw number `draw`, modulo 2^32. A draw
  // number is never used twice. Equal lengths; |sum| < 2^62.
  void make(uint64_t draw, uint64_t first, std::span<const int64_t> sum, std::span<int32_t> lanes) const;

  double share_sigma() const { return law_.stddev(); }  // at least what was asked for

 private:
  RankShare share_;
  DiscreteGaussian law_;
  StreamKey noise_, dither_;
};

}  // namespace dpfa
