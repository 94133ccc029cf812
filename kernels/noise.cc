#include "kernels/noise.h"

#include <algorithm>
#include <cmath>

#include "kernels/element_step.h"
#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/plant.h"
#include "src/base/random/normal.h"

namespace dpfa::kernels {
namespace {

constexpr size_t kChunk = 1024;  // normals, sums and results of a chunk fit into the first-level cache
constexpr size_t kLine = 64;

struct Scaling {
  double stddev;
  double scale;
  bool in_fp32;  // planted bug: float noise on a float sum
};

template <typename Int>
DPFA_CLONES void release_chunk(const Scaling& s, const Int* sum, const double* normals, size_t count,
                               float* out) {
  if (s.in_fp32) {
    const float noise_scale = static_cast<float>(s.scale * s.stddev), sum_scale = static_cast<float>(s.scale);
    for (size_t i = 0; i < count; ++i)
      out[i] = static_cast<float>(sum[i]) * sum_scale + noise_scale * static_cast<float>(normals[i]);
    return;
  }
  for (size_t i = 0; i < count; ++i) out[i] = release_element(s.stddev, s.scale, sum[i], normals[i]);
}

template <typename Int>
void add_noise_to(const StreamKey& key, uint64_t step, uint64_t first_index, const NoiseSpec& spec,
                  double scale, std::span<const Int> sum, std::span<float> out) {
  DPFA_CHECK(sum.size() == out.size(), "noise for ", sum.size(), " sums into ", out.size(), " floats");
  // 2^47 x 10.26 < 2^51, the range of round_to_integer.
  DPFA_CHECK(spec.stddev_in_grid_units >= 0 && spec.stddev_in_grid_units <= 0x1p47, "standard deviation of ",
             spec.stddev_in_grid_units, " grid units: it must lie in [0, 2^47]");
  DPFA_CHECK(std::isfinite(scale) && scale > 0, "scale ", scale);
  if (DPFA_PLANT("noise_reuse_across_steps")) step = 0;
  const Scaling scaling = {spec.stddev_in_grid_units, scale, DPFA_PLANT("fp32_noise_add")};
  for (size_t begin = 0; begin < sum.size(); begin += kChunk) {
    const size_t count = std::min(kChunk, sum.size() - begin);
    alignas(64) double normals[kChunk];
    for (size_t i = 0; i < count; i += kLine / sizeof(Int)) __builtin_prefetch(sum.data() + begin + i);
    if (scaling.stddev == 0) {
      std::fill_n(normals, count, 0.0);
    } else {
      fill_normals(key, step, first_index + begin, spec.generator, {normals, count});
    }
    release_chunk<Int>(scaling, sum.data() + begin, normals, count, out.data() + begin);
  }
}

}  // namespace

void add_noise(const StreamKey& key, uint64_t step, uint64_t first_index, const NoiseSpec& spec, double scale,
               std::span<const int32_t> sum, std::span<float> out) {
  add_noise_to<int32_t>(key, step, first_index, spec, scale, sum, out);
}

void add_noise(const StreamKey& key, uint64_t step, uint64_t first_index, const NoiseSpec& spec, double scale,
               std::span<const int64_t> sum, std::span<float> out) {
  add_noise_to<int64_t>(key, step, first_index, spec, scale, sum, out);
}

}  // namespace dpfa::kernels
