#include "comm/secagg/lane_hash.h"

#include <algorithm>
#include <cstring>

#include "src/base/check.h"
#include "src/base/clones.h"
#include "src/base/random/chacha20.h"

namespace dpfa::comm::secagg {
namespace {

struct Products {
  int64_t limb[6];  // three of each point
};

// |lane| <= 2^31, limb < 2^21, at most 2^9 of them: below 2^61.
DPFA_CLONES
Products inner_products(const int32_t* lanes, const int32_t* first, const int32_t* second, size_t count) {
  constexpr size_t n = LaneHash::kBlock;
  int64_t a0 = 0, a1 = 0, a2 = 0, b0 = 0, b1 = 0, b2 = 0;
  for (size_t j = 0; j < count; ++j) {
    const int64_t lane = lanes[j];
    a0 += lane * first[j];
    a1 += lane * first[n + j];
    a2 += lane * first[2 * n + j];
    b0 += lane * second[j];
    b1 += lane * second[n + j];
    b2 += lane * second[2 * n + j];
  }
  return {{a0, a1, a2, b0, b1, b2}};
}

uint64_t power_mod(uint64_t base, uint64_t exponent) {
  uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1, base = multiply_mod(base, base))
    if (exponent & 1) result = multiply_mod(result, base);
  return result;
}

}  // namespace

std::array<uint64_t, 2> hash_points(const StreamKey& key, uint64_t nonce, int64_t slice) {
  std::array<uint32_t, 4> words;
  fill_words(key, nonce, 4 * static_cast<uint64_t>(slice), words);
  std::array<uint64_t, 2> points;
  for (size_t k = 0; k < points.size(); ++k)
    points[k] = hash_internal::reduce((uint64_t{words[2 * k + 1]} << 32 | words[2 * k]) & kHashPrime);
  explicit_bzero(words.data(), sizeof(words));
  return points;
}

LaneHash::LaneHash(const StreamKey& key, uint64_t nonce, int64_t slice) {
  std::array<uint64_t, 2> points = hash_points(key, nonce, slice);
  for (size_t k = 0; k < points_.size(); ++k) {
    Point& point = points_[k];
    const uint64_t z = points[k];
    point.powers.resize(3 * kBlock);
    uint64_t power = z;
    for (int64_t j = 0; j < kBlock; ++j) {
      for (int limb = 0; limb < 3; ++limb)
        point.powers[limb * kBlock + j] = static_cast<int32_t>(power >> (limb * kLimbBits) & kLimbMask);
      point.block_power = power;
      power = multiply_mod(power, z);
    }
  }
  explicit_bzero(points.data(), sizeof(points));
}

LaneHash::~LaneHash() {
  for (Point& point : points_) {
    explicit_bzero(point.powers.data(), point.powers.size() * sizeof(int32_t));
    explicit_bzero(&point.block_power, sizeof(point.block_power));
  }
}

std::array<uint64_t, 2> LaneHash::part(int64_t first, std::span<const int32_t> lanes) const {
  DPFA_CHECK(first >= 0 && first % kBlock == 0, "lanes from ", first);
  std::array<uint64_t, 2> sums = {}, offset_powers;
  for (size_t k = 0; k < 2; ++k)
    offset_powers[k] = power_mod(points_[k].block_power, static_cast<uint64_t>(first / kBlock));
  for (size_t begin = 0; begin < lanes.size(); begin += kBlock) {
    const size_t count = std::min<size_t>(kBlock, lanes.size() - begin);
    const Products products =
        inner_products(lanes.data() + begin, points_[0].powers.data(), points_[1].powers.data(), count);
    for (size_t k = 0; k < 2; ++k) {
      sums[k] = add_mod(sums[k], multiply_mod(offset_powers[k], join_limbs(products.limb + 3 * k)));
      offset_powers[k] = multiply_mod(offset_powers[k], points_[k].block_power);
    }
  }
  explicit_bzero(offset_powers.data(), sizeof(offset_powers));
  return sums;
}

}  // namespace dpfa::comm::secagg
