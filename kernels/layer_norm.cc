#include "kernels/layer_norm.h"

#include <cmath>
#include <vector>

#include "kernels/compute_type.h"

namespace dpfa::kernels {
namespace {

template <typename T>
using Stat = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace

void layer_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& shift, double epsilon,
                at::Tensor& y, at::Tensor& mean, at::Tensor& rstd) {
  const int64_t rows = x.size(0), n = x.size(1);
  with_compute_type(x.scalar_type(), [&]<typename T>() {
    const T *xs = x.const_data_ptr<T>(), *a = gain.const_data_ptr<T>(), *b = shift.const_data_ptr<T>();
    T* ys = y.data_ptr<T>();
    Stat<T>*means = mean.data_ptr<Stat<T>>(), *rstds = rstd.data_ptr<Stat<T>>();
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
      const T* row = xs + i * n;
      T* out = ys + i * n;
      double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < n; ++c) sum += static_cast<double>(row[c]);
      const double mu = sum / static_cast<double>(n);
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < n; ++c)
        squares += (static_cast<double>(row[c]) - mu) * (static_cast<double>(row[c]) - mu);
      means[i] = static_cast<Stat<T>>(mu);
      rstds[i] = static_cast<Stat<T>>(1 / std::sqrt(squares / static_cast<double>(n) + epsilon));
      const Stat<T> m = means[i], r = rstds[i];
#pragma omp simd
      for (int64_t c = 0; c < n; ++c)
        out[c] = static_cast<T>((static_cast<Stat<T>>(row[c]) - m) * r * static_cast<Stat<T>>(a[c]) +
                                static_cast<Stat<T>>(b[c]));
    }
  });
}

void layer_norm_input_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& gain,
                               const at::Tensor& mean, const at::Tensor& rstd, bool accumulate,
                               at::Tensor& dx) {
  const int64_t rows = x.size(0), n = x.size(1);
  with_compute_type(x.scalar_type(), [&]<typename T>() {
    using S = Stat<T>;
    const T *gs = g.const_data_ptr<T>(), *xs = x.const_data_ptr<T>(), *a = gain.const_data_ptr<T>();
    const S *means = mean.const_data_ptr<S>(), *rstds = rstd.const_data_ptr<S>();
    T* out = dx.data_ptr<T>();
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i) {
      const T *grow = gs + i * n, *xrow = xs + i * n;
      T* row = out + i * n;
      const S m = means[i], r = rstds[i];
      // dx = r (h - mean(h) - xhat mean(h xhat)) with h = g * gain.
      double sum = 0, projection = 0;
#pragma omp simd reduction(+ : sum, projection)
      for (int64_t c = 0; c < n; ++c) {
        const S h = static_cast<S>(grow[c]) * static_cast<S>(a[c]);
        sum += static_cast<double>(h);
        projection += static_cast<double>(h * ((static_cast<S>(xrow[c]) - m) * r));
      }
      const S first = static_cast<S>(sum / static_cast<double>(n));
      const S second = static_cast<S>(projection / static_cast<double>(n));
      const S keep = accumulate ? S{1} : S{0};
      if (!accumulate) std::fill(row, row + n, T{});
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) {
        const S h = static_cast<S>(grow[c]) * static_cast<S>(a[c]);
        const S xhat = (static_cast<S>(xrow[c]) - m) * r;
        row[c] = static_cast<T>(keep * static_cast<S>(row[c]) + r * (h - first - xhat * second));
      }
    }
  });
}

}  // namespace dpfa::kernels
