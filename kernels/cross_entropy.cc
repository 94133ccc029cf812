#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/compute_type.h"
#include "kernels/vector_exp.h"
#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

DPFA_CLONES float largest(const float* row, int64_t n) {
  float m = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : m)
  for (int64_t j = 0; j < n; ++j) m = row[j] > m ? row[j] : m;
  return m;
}

// row := exp(row - m); returns the sum.
DPFA_CLONES float exponentiate(float* row, int64_t n, float m) { return exponentiate_row(row, n, m); }

double largest(const double* row, int64_t n) { return *std::max_element(row, row + n); }
double exponentiate(double* row, int64_t n, double m) {
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += row[j] = std::exp(row[j] - m);
  return sum;
}

template <typename T, bool kGradient>
void run(T* logits, int64_t vocab, std::span<const int64_t> targets, std::span<const double> weights,
         std::span<double> losses, bool every_row) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
#pragma omp parallel
  {
    std::vector<Sum> work(vocab);
    const std::vector<Sum> zeros(every_row ? vocab : 0);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < static_cast<int64_t>(targets.size()); ++i) {
      T* row = logits + i * vocab;
      const bool counts = targets[i] >= 0;
      if (!counts && (!every_row || DPFA_PLANT("softmax_follows_the_record"))) {
        losses[i] = 0;
        if constexpr (kGradient) std::fill(row, row + vocab, T{});
        continue;
      }
      for (int64_t j = 0; j < vocab; ++j) work[j] = static_cast<Sum>(row[j]);
      const Sum m = largest(work.data(), vocab);
      const int64_t target = counts ? targets[i] : 0;
      const Sum target_logit = work[target];
      const Sum sum = exponentiate(work.data(), vocab, m);
      const double loss =
          std::log(static_cast<double>(sum)) + static_cast<double>(m) - static_cast<double>(target_logit);
      losses[i] = counts ? weights[i] * loss : 0;
      if constexpr (kGradient) {
        const Sum scale = static_cast<Sum>(weights[i]) / sum;
#pragma omp simd
        for (int64_t j = 0; j < vocab; ++j) work[j] *= scale;
        work[target] -= static_cast<Sum>(weights[i]);
        const Sum* gradient = counts ? work.data() : zeros.data();
        for (int64_t j = 0; j < vocab; ++j) row[j] = static_cast<T>(gradient[j]);
      }
    }
  }
}

}  // namespace

void cross_entropy_in_place(at::Tensor& logits, std::span<const int64_t> targets,
                            std::span<const double> weights, std::span<double> losses, bool every_row) {
  DPFA_CHECK(logits.is_contiguous() && logits.size(0) == static_cast<int64_t>(targets.size()));
  with_compute_type(logits.scalar_type(), [&]<typename T>() {
    run<T, true>(logits.data_ptr<T>(), logits.size(1), targets, weights, losses, every_row);
  });
}

void cross_entropy(const at::Tensor& logits, std::span<const int64_t> targets,
                   std::span<const double> weights, std::span<double> losses) {
  DPFA_CHECK(logits.is_contiguous() && logits.size(0) == static_cast<int64_t>(targets.size()));
  with_compute_type(logits.scalar_type(), [&]<typename T>() {
    run<T, false>(const_cast<T*>(logits.const_data_ptr<T>()), logits.size(1), targets, weights, losses,
                  /*every_row=*/false);
  });
}

}  // namespace dpfa::kernels
