#include "src/base/random/normal.h"

#include <algorithm>
#include <limits>

#include "src/base/check.h"
#include "src/base/random/cpu_dispatch.h"

namespace dpfa {

void fill_normals(const StreamKey& key, uint64_t step, uint64_t first, Generator generator,
                  std::span<double> out) {
  using random_internal::kGroupNormals;
  if (out.empty()) return;
  DPFA_CHECK(out.size() - 1 <= std::numeric_limits<uint64_t>::max() - first,
             "the stream ends at normal 2^64");
  const random_internal::Stream stream = {key.words().data(), step};
  const random_internal::Backend& backend = random_internal::active_backend();
  const auto fill = generator == Generator::kChaCha20 ? backend.chacha20_normals : backend.philox_normals;
  uint64_t group = first / kGroupNormals;
  size_t skip = first % kGroupNormals;  // normals of the current group before the first one wanted
  while (!out.empty()) {
    const size_t whole = out.size() / kGroupNormals;
    if (skip == 0 && whole > 0) {
      fill(stream, group, whole, out.data());
      group += whole;
      out = out.subspan(whole * kGroupNormals);
      continue;
    }
    double normals[kGroupNormals];
    fill(stream, group++, 1, normals);
    const size_t taken = std::min(kGroupNormals - skip, out.size());
    std::copy_n(normals + skip, taken, out.begin());
    out = out.subspan(taken);
    skip = 0;
  }
}

void box_muller(std::span<const uint64_t> radius, std::span<const uint64_t> angle, std::span<double> first,
                std::span<double> second) {
  const size_t count = radius.size();
  DPFA_CHECK(angle.size() == count && first.size() == count && second.size() == count, "spans of one length");
  constexpr size_t kBatch = 8;  // what the widest backend takes at once
  for (size_t i = 0; i < count; i += kBatch) {
    const size_t n = std::min(kBatch, count - i);
    uint64_t r[kBatch] = {}, a[kBatch] = {};
    double x[kBatch], y[kBatch];
    std::copy_n(radius.begin() + i, n, r);
    std::copy_n(angle.begin() + i, n, a);
    random_internal::active_backend().box_muller(r, a, kBatch, x, y);
    std::copy_n(x, n, first.begin() + i);
    std::copy_n(y, n, second.begin() + i);
  }
}

}  // namespace dpfa
