#include "src/privacy/noisy_gradient.h"

#include <algorithm>
#include <atomic>

namespace dpfa::privacy {

void NoisyGradient::read(int64_t begin, std::span<float> out) const {
  kernels::add_noise(noise_.key, noise_.step, static_cast<uint64_t>(begin), noise_.spec, noise_.scale,
                     sum_.span().subspan(begin, out.size()), out);
}

void NoisyGradient::take(int64_t begin, std::span<float> out) {
  read(begin, out);
  std::fill_n(sum_.data() + begin, out.size(), 0);
  std::atomic_ref(taken_) += static_cast<int64_t>(out.size());
}

std::vector<float> NoisyGradient::values() const {
  std::vector<float> result(sum_.size());
  read(0, result);
  return result;
}

}  // namespace dpfa::privacy
