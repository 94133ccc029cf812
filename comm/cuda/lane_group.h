// One thread's share of the pass over a contribution: the lanes of sixteen words, made, hashed, packed and
// masked, and the way back. Runs on the host as well, where tests compare whole contributions with
// SecureSum's pass, word by word and hash by hash.
//
// A block of kThreads threads works on consecutive groups. Its lanes lie in one slice of the hash.
#pragma once

#include <type_traits>

#include "comm/cuda/slice_powers.h"
#include "comm/secagg/lane_layout.h"
#include "src/base/random/share_lanes.h"

namespace dpfa::comm::cuda {

inline constexpr int kGroupWords = 16;

template <int kBits>
struct Group {
  using Word = std::conditional_t<kBits == 21, uint64_t, uint32_t>;
  static constexpr int kPerWord = 8 * sizeof(Word) / kBits;
  static constexpr int kLanes = kGroupWords * kPerWord;  // 16, 32 or 48
  static constexpr int64_t kBlockLanes = int64_t{kThreads} * kLanes;
  static_assert(kHashSlice % kBlockLanes == 0 && kHashSlice / kBlockLanes < (1 << kSquares));
};
// Every block of every layout that starts at a multiple of this lies in one slice.
inline constexpr int64_t kAlignment = 24576;
static_assert(kAlignment % Group<16>::kBlockLanes == 0 && kAlignment % Group<21>::kBlockLanes == 0 &&
              kAlignment % Group<32>::kBlockLanes == 0 && kHashSlice % kAlignment == 0);

struct MaskKey {
  uint32_t words[8];
  uint32_t subtract;  // 0 or 1
};

struct HashPair {
  uint64_t at[2];
};

// What a group adds to the hash of its block: `lanes` as signed numbers, thread `thread` of the block.
// lane_powers is powers.lane or a copy in faster memory.
template <int kLanes>
DPFA_LANE HashPair hash_of_group(const uint32_t* lanes, int stride, const int32_t* lane_powers,
                                 const SlicePowers& powers, int thread) {
  int64_t sums[6] = {};
  DPFA_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    const int64_t lane = static_cast<int32_t>(lanes[i * stride]);
    for (int limb = 0; limb < 6; ++limb) sums[limb] += lane * lane_powers[limb * kLanes + i];
  }
  return {{secagg::multiply_mod(powers.thread[0][thread], secagg::join_limbs(sums)),
           secagg::multiply_mod(powers.thread[1][thread], secagg::join_limbs(sums + 3))}};
}

// The contribution of a rank: dithered, cut, with its share of the noise. sum points at element `base`.
struct RankSum {
  random_internal::ShareTables share;
  const int64_t* sum;
  int64_t base;

  template <int kLanes>
  DPFA_LANE void load(int64_t first, int64_t end, uint32_t* lanes, int stride) const {
    using random_internal::kShareLanes;
    for (int part = 0; part < kLanes; part += kShareLanes) {
      const int64_t left = end - first - part;
      const int count = left < 0 ? 0 : left < kShareLanes ? static_cast<int>(left) : kShareLanes;
      const auto element = static_cast<uint64_t>(first + part);
      if (count > 0) random_internal::noise_lanes(share, element, lanes + part * stride, stride);
      random_internal::add_cut_sums(share, element, sum + (first + part - base), count, lanes + part * stride,
                                    stride);
    }
  }
};

// Lanes that are contributed as they are. They point at lane `base`.
struct PlainLanes {
  const int32_t* lanes;
  int64_t base;

  template <int kLanes>
  DPFA_LANE void load(int64_t first, int64_t end, uint32_t* out, int stride) const {
    for (int i = 0; i < kLanes; ++i)
      out[i * stride] = first + i < end ? static_cast<uint32_t>(lanes[first + i - base]) : 0;
  }
};

// words[w] += streams of the keys at word `first_word` + w, a multiple of sixteen.
template <typename Word>
DPFA_LANE void mask_words(const MaskKey* keys, int key_count, uint64_t nonce, uint64_t first_word,
                          Word (&words)[kGroupWords]) {
  constexpr int kBlocks = sizeof(Word) / 4, kWordsOfBlock = kGroupWords / kBlocks;
  const uint64_t first_block = DPFA_PLANT("group_pad_reuse") ? 0 : first_word / kGroupWords * kBlocks;
  for (int key = 0; key < key_count; ++key) {
    const Word sign = keys[key].subtract != 0 ? ~Word{0} : 0;
    DPFA_UNROLL
    for (int block = 0; block < kBlocks; ++block) {
      uint32_t stream[16];
      random_internal::words_of_block({keys[key].words, nonce}, first_block + static_cast<uint64_t>(block),
                                      stream);
      DPFA_UNROLL
      for (int w = 0; w < kWordsOfBlock; ++w) {
        Word mask = stream[w * kBlocks];
        if constexpr (kBlocks == 2) mask |= Word{stream[2 * w + 1]} << 32;
        words[block * kWordsOfBlock + w] += (mask ^ sign) - sign;
      }
    }
  }
}

// The words of a group whose lanes were loaded. Lanes beyond the contribution are 0, so the words beyond it
// hold masks alone: the caller stores none of them.
template <int kBits>
DPFA_LANE void pack_group(const uint32_t* lanes, int stride,
                          typename Group<kBits>::Word (&words)[kGroupWords]) {
  constexpr int kPerWord = Group<kBits>::kPerWord;
  DPFA_UNROLL
  for (int w = 0; w < kGroupWords; ++w) {
    int32_t of_word[kPerWord];
    for (int l = 0; l < kPerWord; ++l) of_word[l] = static_cast<int32_t>(lanes[(w * kPerWord + l) * stride]);
    words[w] = secagg::word_of<kBits, typename Group<kBits>::Word>(of_word, kPerWord);
  }
}

// The way back: lanes[i stride] of the words for i < left; lanes from `left` on become 0.
template <int kBits>
DPFA_LANE void unpack_group(const typename Group<kBits>::Word (&words)[kGroupWords], int64_t left,
                            uint32_t* lanes, int stride) {
  constexpr int kPerWord = Group<kBits>::kPerWord;
  DPFA_UNROLL
  for (int w = 0; w < kGroupWords; ++w) {
    int32_t of_word[kPerWord];
    secagg::lanes_of<kBits, typename Group<kBits>::Word>(words[w], of_word, kPerWord);
    for (int l = 0; l < kPerWord; ++l)
      lanes[(w * kPerWord + l) * stride] = w * kPerWord + l < left ? static_cast<uint32_t>(of_word[l]) : 0;
  }
}

}  // namespace dpfa::comm::cuda
