#include "comm/cuda/device_bucket.h"

#include <string.h>

#include <utility>

#include "comm/secagg/lane_hash.h"
#include "src/base/check.h"

namespace dpfa::comm::cuda {
namespace {

secagg::HashTotals flat(const SliceHashes& hashes) {
  secagg::HashTotals totals;
  for (const auto& of_slice : hashes) totals.insert(totals.end(), of_slice.begin(), of_slice.end());
  return totals;
}

}  // namespace

DeviceBucket::DeviceBucket(NcclCommunicator& nccl, int lane_bits, int64_t lanes, cudaStream_t stream)
    : nccl_(nccl), layout_{lane_bits, lanes}, stream_(stream), pass_(lane_bits) {
  layout_.check();
  words_ = dpfa::cuda::DeviceArray<uint64_t>((layout_.bytes() + 7) / 8);
  if (lane_bits != 32) lanes_ = dpfa::cuda::DeviceArray<int32_t>(lanes);
}

void DeviceBucket::contribute(const int64_t* sum, uint64_t draw) {
  sum_ = sum;
  plain_ = nullptr;
  draw_ = draw;
}

void DeviceBucket::contribute(const int32_t* lanes) {
  sum_ = nullptr;
  plain_ = lanes;
}

int32_t* DeviceBucket::own_lanes() {
  return layout_.bits == 32 ? reinterpret_cast<int32_t*>(words_.data()) : lanes_.data();
}

const int32_t* DeviceBucket::lanes() const {
  return layout_.bits == 32 ? reinterpret_cast<const int32_t*>(words_.data()) : lanes_.data();
}

void DeviceBucket::make_words(const secagg::Pad* pad) {
  SliceHashes points;
  if (pad != nullptr)
    for (int64_t slice = 0; slice * secagg::LaneHash::kSlice < layout_.lanes; ++slice)
      points.push_back(secagg::hash_points(pad->points, pad->nonce, slice));
  pass_.set_points(points);
  explicit_bzero(points.data(), points.size() * sizeof(points[0]));
  pass_.set_keys(pad != nullptr ? pad->masks.keys() : std::span<const secagg::Masks::Key>());

  const LaneRange all = {0, layout_.lanes};
  const uint64_t nonce = pad != nullptr ? pad->nonce : 0;
  const int64_t* sum = std::exchange(sum_, nullptr);
  const int32_t* plain = std::exchange(plain_, nullptr);
  DPFA_CHECK(sum != nullptr || plain != nullptr || layout_.lanes == 0, "no contribution for this step");
  if (sum != nullptr) {
    pass_.make_words(all, draw_, nonce, sum, words_.data(), stream_);
  } else {
    pass_.make_words(all, nonce, plain, words_.data(), stream_);
  }
}

void DeviceBucket::add_words() {
  const auto words = static_cast<size_t>(layout_.words());
  if (layout_.word_bits() == 64) {
    nccl_.all_reduce_sum(words_.data(), words, stream_);
  } else {
    nccl_.all_reduce_sum(reinterpret_cast<uint32_t*>(words_.data()), words, stream_);
  }
}

void DeviceBucket::read_words(const secagg::Pad*) {
  pass_.read_words({0, layout_.lanes}, words_.data(), own_lanes(), stream_);
  nccl_.finish(stream_);
}

secagg::Bucket::Hashes DeviceBucket::hashes() {
  return {flat(pass_.made_hashes(stream_)), flat(pass_.read_hashes(stream_))};
}

void DeviceBucket::clear() {
  if (layout_.lanes == 0) return;
  dpfa::cuda::check(
      cudaMemsetAsync(own_lanes(), 0, static_cast<size_t>(layout_.lanes) * sizeof(int32_t), stream_),
      "fill of device memory");
  nccl_.finish(stream_);
}

}  // namespace dpfa::comm::cuda
