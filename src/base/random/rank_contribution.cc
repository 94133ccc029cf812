#include "src/base/random/rank_contribution.h"

#include <string.h>

#include <algorithm>
#include <array>

#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/plant.h"
#include "src/base/random/dither.h"

namespace dpfa {
namespace {

// Modulo 2^32: what leaves the lane is found by the check of the sum, and costs no privacy.
DPFA_CLONES void add_cut(const int64_t* rounded, const int64_t* noise, int64_t clamp,
                         std::span<int32_t> lanes) {
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = static_cast<int32_t>(static_cast<uint32_t>(std::clamp(rounded[i], -clamp, clamp) + noise[i]));
}

}  // namespace

RankContribution::RankContribution(const RankShare& share, const StreamKey& noise, const StreamKey& dither)
    : share_(share), law_(share.share_sigma), noise_(noise), dither_(dither) {
  DPFA_CHECK(share.clamp > 0 && share.clamp <= INT32_MAX, "clamp ", share.clamp);
}

void RankContribution::make(uint64_t draw, uint64_t first, std::span<const int64_t> sum,
                            std::span<int32_t> lanes) const {
  DPFA_CHECK(sum.size() == lanes.size(), sum.size(), " sums into ", lanes.size(), " lanes");
  std::array<int64_t, 1024> rounded, noise;
  for (size_t begin = 0; begin < sum.size(); begin += rounded.size()) {
    const size_t count = std::min(rounded.size(), sum.size() - begin);
    std::copy_n(sum.begin() + static_cast<ptrdiff_t>(begin), count, rounded.begin());
    dither(dither_, draw, first + begin, share_.dither_shift, std::span(rounded).first(count));
    law_.fill(noise_, DPFA_PLANT("share_reused_across_draws") ? 0 : draw, first + begin,
              std::span(noise).first(count));
    add_cut(rounded.data(), noise.data(), share_.clamp, lanes.subspan(begin, count));
  }
  explicit_bzero(rounded.data(), sizeof(rounded));
  explicit_bzero(noise.data(), sizeof(noise));
}

}  // namespace dpfa
