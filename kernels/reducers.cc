#include "kernels/reducers.h"

#include <algorithm>
#include <array>

#include "kernels/compute_type.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kBlock = 256;  // columns of one task: their double sums stay in the first-level cache

// Calls body(example, first column, columns) for all blocks, in parallel.
template <typename Body>
void for_each_block(int64_t examples, int64_t columns, const Body& body) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < examples * blocks; ++task) {
    const int64_t first = task % blocks * kBlock;
    body(task / blocks, first, std::min(kBlock, columns - first));
  }
}

at::TensorOptions sum_options(const at::Tensor& g) {
  return g.options().dtype(g.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

}  // namespace

at::Tensor bias_gradient(const at::Tensor& g, std::span<const int64_t> offsets) {
  const int64_t n = g.size(1), examples = static_cast<int64_t>(offsets.size()) - 1;
  at::Tensor result = at::empty({examples, n}, sum_options(g));
  with_compute_type(g.scalar_type(), [&]<typename T>() {
    using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const T* source = g.const_data_ptr<T>();
    Sum* out = result.data_ptr<Sum>();
    for_each_block(examples, n, [&](int64_t b, int64_t first, int64_t columns) {
      std::array<double, kBlock> sum{};
      for (int64_t at = offsets[b]; at < offsets[b + 1]; ++at) {
        const T* row = source + at * n + first;
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) sum[c] += static_cast<double>(row[c]);
      }
      for (int64_t c = 0; c < columns; ++c) out[b * n + first + c] = static_cast<Sum>(sum[c]);
    });
  });
  return result;
}

std::pair<at::Tensor, at::Tensor> layer_norm_gradient(const at::Tensor& g, const at::Tensor& x,
                                                      const at::Tensor& mean, const at::Tensor& rstd,
                                                      std::span<const int64_t> offsets) {
  const int64_t n = g.size(1), examples = static_cast<int64_t>(offsets.size()) - 1;
  at::Tensor gain = at::empty({examples, n}, sum_options(g)), shift = at::empty_like(gain);
  with_compute_type(g.scalar_type(), [&]<typename T>() {
    using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const at::Tensor means = mean.to(gain.scalar_type()), rstds = rstd.to(gain.scalar_type());
    const T *gs = g.const_data_ptr<T>(), *xs = x.const_data_ptr<T>();
    const Sum *m = means.const_data_ptr<Sum>(), *r = rstds.const_data_ptr<Sum>();
    Sum *gain_out = gain.data_ptr<Sum>(), *shift_out = shift.data_ptr<Sum>();
    for_each_block(examples, n, [&](int64_t b, int64_t first, int64_t columns) {
      std::array<double, kBlock> gain_sum{}, shift_sum{};
      for (int64_t at = offsets[b]; at < offsets[b + 1]; ++at) {
        const T *grow = gs + at * n + first, *xrow = xs + at * n + first;
        const Sum mu = m[at], rs = r[at];
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) {
          const Sum gradient = static_cast<Sum>(grow[c]);
          gain_sum[c] += static_cast<double>(gradient * ((static_cast<Sum>(xrow[c]) - mu) * rs));
          shift_sum[c] += static_cast<double>(gradient);
        }
      }
      for (int64_t c = 0; c < columns; ++c) {
        gain_out[b * n + first + c] = static_cast<Sum>(gain_sum[c]);
        shift_out[b * n + first + c] = static_cast<Sum>(shift_sum[c]);
      }
    });
  });
  return {gain, shift};
}

at::Tensor rms_norm_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& rstd,
                             std::span<const int64_t> offsets) {
  const at::Tensor no_mean = at::zeros_like(rstd);
  return layer_norm_gradient(g, x, no_mean, rstd, offsets).first;
}

}  // namespace dpfa::kernels
