// The per-thread code of the device pass, run on the host block by block and thread by thread.
#pragma once

#include <algorithm>
#include <vector>

#include "comm/cuda/lane_group.h"

namespace dpfa::comm::cuda::testing {

using Hashes = std::vector<std::array<uint64_t, 2>>;

inline MaskKey mask_key(const StreamKey& key, bool subtract) {
  MaskKey plain = {{}, subtract ? 1u : 0u};
  std::copy_n(key.words().begin(), 8, plain.words);
  return plain;
}

// Sums of both signs and of all sizes up to 2^61.
inline std::vector<int64_t> some_sums(int64_t count) {
  std::vector<int64_t> sums(static_cast<size_t>(count));
  for (size_t i = 0; i < sums.size(); ++i)
    sums[i] = static_cast<int64_t>(i * 0x9E3779B97F4A7C15) >> (2 + i % 40);
  return sums;
}

// The points of slice k are points[k].
inline std::vector<SlicePowers> powers_of(const Hashes& points, int group_lanes) {
  std::vector<SlicePowers> powers;
  for (const auto& of_slice : points) powers.push_back(slice_powers(of_slice, group_lanes));
  return powers;
}

// Calls group(first lane, thread, lanes of the group, stride) for every thread of every block that has lanes
// in [first, end), and adds up what the blocks hash. The lanes are in columns, as in a block's shared memory.
template <int kBits, typename Call>
Hashes for_each_group(const std::vector<SlicePowers>& powers, int64_t first, int64_t end, const Call& group) {
  using G = Group<kBits>;
  Hashes hashes(powers.size());
  std::vector<uint32_t> lanes(G::kLanes * kThreads, 0xDEADBEEF);
  for (int64_t block = first; block < end; block += G::kBlockLanes) {
    const auto slice = static_cast<size_t>(block / kHashSlice);
    HashPair sum = {};
    for (int thread = 0; thread < kThreads; ++thread) {
      const int64_t lane = block + thread * G::kLanes;
      if (lane >= end) break;
      group(lane, lanes.data() + thread, kThreads);
      if (powers.empty()) continue;
      const HashPair own = hash_of_group<G::kLanes>(lanes.data() + thread, kThreads, powers[slice].lane,
                                                    powers[slice], thread);
      for (int k = 0; k < 2; ++k) sum.at[k] = secagg::add_mod(sum.at[k], own.at[k]);
    }
    if (powers.empty()) continue;
    for (int k = 0; k < 2; ++k) {
      uint64_t& total = hashes[slice][static_cast<size_t>(k)];
      total = secagg::add_mod(
          total, secagg::multiply_mod(sum.at[k],
                                      block_power(powers[slice], k, block % kHashSlice / G::kBlockLanes)));
    }
  }
  return hashes;
}

// words point at the word of lane `first`.
template <int kBits, typename Source>
Hashes make_words(const Source& source, const std::vector<MaskKey>& keys,
                  const std::vector<SlicePowers>& powers, uint64_t nonce, int64_t first, int64_t end,
                  typename Group<kBits>::Word* words) {
  using G = Group<kBits>;
  const auto word_of_lane = [](int64_t lane) { return (lane + G::kPerWord - 1) / G::kPerWord; };
  return for_each_group<kBits>(powers, first, end, [&](int64_t lane, uint32_t* lanes, int stride) {
    source.template load<G::kLanes>(lane, end, lanes, stride);
    typename G::Word group[kGroupWords];
    pack_group<kBits>(lanes, stride, group);
    const int64_t word = word_of_lane(lane);
    mask_words(keys.data(), static_cast<int>(keys.size()), nonce, static_cast<uint64_t>(word), group);
    for (int w = 0; w < kGroupWords && word + w < word_of_lane(end); ++w)
      words[word + w - word_of_lane(first)] = group[w];
  });
}

template <int kBits>
Hashes read_words(const std::vector<SlicePowers>& powers, int64_t first, int64_t end,
                  const typename Group<kBits>::Word* words, int32_t* out) {
  using G = Group<kBits>;
  const auto word_of_lane = [](int64_t lane) { return (lane + G::kPerWord - 1) / G::kPerWord; };
  return for_each_group<kBits>(powers, first, end, [&](int64_t lane, uint32_t* lanes, int stride) {
    typename G::Word group[kGroupWords] = {};
    const int64_t word = word_of_lane(lane);
    for (int w = 0; w < kGroupWords && word + w < word_of_lane(end); ++w)
      group[w] = words[word + w - word_of_lane(first)];
    unpack_group<kBits>(group, end - lane, lanes, stride);
    for (int i = 0; i < G::kLanes && lane + i < end; ++i)
      out[lane + i - first] = static_cast<int32_t>(lanes[i * stride]);
  });
}

}  // namespace dpfa::comm::cuda::testing
