#include "kernels/dropout.h"

#include <algorithm>

#include "kernels/compute_type.h"
#include "src/base/plant.h"
#include "src/base/random/philox.h"

namespace dpfa::kernels {

void apply_dropout(const DropoutSite& site, at::Tensor& x) {
  const int64_t examples = static_cast<int64_t>(site.records.size()), width = x.size(1);
  const auto blocks_of = [&](int64_t b) { return ((site.offsets[b + 1] - site.offsets[b]) * width + 3) / 4; };
  int64_t most = 0;
  for (int64_t b = 0; b < examples; ++b) most = std::max(most, blocks_of(b));
  // One 32-bit word decides about one element: kept where word >= rate x 2^32.
  const uint32_t threshold = static_cast<uint32_t>(site.rate * 4294967296.0);
  const auto& words = site.key.words();
  const std::array<uint32_t, 2> key = {words[0] ^ static_cast<uint32_t>(site.step),
                                       words[1] ^ static_cast<uint32_t>(site.step >> 32)};
  with_compute_type(x.scalar_type(), [&]<typename T>() {
    const float scale = static_cast<float>(1 / (1 - site.rate));
    T* values = x.data_ptr<T>();
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < examples; ++b) {
      for (int64_t block = 0; block < most; ++block) {
        if (block >= blocks_of(b)) continue;
        T* const example = values + site.offsets[b] * width;
        const int64_t count = (site.offsets[b + 1] - site.offsets[b]) * width;
        const auto record = static_cast<uint64_t>(DPFA_PLANT("dropout_of_the_slot") ? b : site.records[b]);
        const auto random = philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(site.site),
                                        static_cast<uint32_t>(record), static_cast<uint32_t>(record >> 32)},
                                       key);
        for (int64_t i = block * 4; i < std::min(count, block * 4 + 4); ++i) {
          T& value = example[i];
          value = random[i % 4] < threshold ? T{} : static_cast<T>(value * scale);
        }
      }
    }
  });
}

}  // namespace dpfa::kernels
