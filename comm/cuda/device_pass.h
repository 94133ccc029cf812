// The pass over a rank's contribution on a GPU, with the bits of SecureSum's on a CPU: the rank's integer sum
// is read once, dithered, cut, given its share of the noise (rank_contribution.h), hashed (lane_hash.h),
// packed (lane_layout.h), masked (masks.h), and the words are written once. What is not yet noised and masked
// stays in registers and shared memory. Beside it the way back: words of the sum to lanes, and their hash.
//
// Guarantee: that of rank_contribution.h and masks.h. What belongs to a lane is a function of (keys, draw,
// nonce, lane number) alone, so a contribution may be worked on in any number of ranges. No float and no
// atomic operation takes part.
//
// Work is put on `stream`; all pointers are device memory, words aligned to 16 bytes. Errors are those of
// src/base/cuda/device.h, and InternalError for what does not fit.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/secagg/masks.h"
#include "src/base/random/rank_contribution.h"
#include "src/base/stream_key.h"

namespace dpfa::comm::cuda {

// What RankContribution is made of: weights and table are those of DiscreteGaussian.
struct ShareSpec {
  RankShare share;
  StreamKey noise, dither;
  std::span<const int64_t> weights;
  std::span<const uint64_t> table;
};

// Lanes [first, first + count) of a contribution; `first` is a multiple of 24576.
struct LaneRange {
  int64_t first, count;
};

// Per slice, at both points, each below kHashPrime.
using SliceHashes = std::vector<std::array<uint64_t, 2>>;

class DevicePass {
 public:
  // For lanes of 16, 21 or 32 bits. The device's copies of keys and points are wiped on destruction.
  explicit DevicePass(int lane_bits);
  ~DevicePass();
  DevicePass(const DevicePass&) = delete;
  DevicePass& operator=(const DevicePass&) = delete;

  // What make_words of a rank's sum adds. May be called again; waits for the device.
  void set_share(const ShareSpec& spec);
  // The keys of this rank's masks (Masks::keys), for the calls that follow; none, as at first: words are not
  // masked. Waits for the device: earlier calls may still use the keys before.
  void set_keys(std::span<const secagg::Masks::Key> keys);
  // The points of every slice of the contribution, from slice 0 on (hash_points), for the calls that follow;
  // none, as at first: nothing is hashed. Forgets the hashes so far. Waits for the device.
  void set_points(const SliceHashes& points);

  // words := packed and masked clamp(dither(sum)) + noise of draw `draw`. sum and words point at the range's
  // first lane and word; |sum| < 2^62.
  void make_words(LaneRange range, uint64_t draw, uint64_t nonce, const int64_t* sum, void* words,
                  cudaStream_t stream);
  // The same of lanes that are contributed as they are.
  void make_words(LaneRange range, uint64_t nonce, const int32_t* lanes, void* words, cudaStream_t stream);
  // lanes := what the words hold. Lanes of 32 bits may lie where the words do.
  void read_words(LaneRange range, const void* words, int32_t* lanes, cudaStream_t stream);

  // Of all lanes that went through make_words, and through read_words, since set_points. Between the two, all
  // calls use one stream. Waits for it.
  SliceHashes made_hashes(cudaStream_t stream) const;
  SliceHashes read_hashes(cudaStream_t stream) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::comm::cuda
