// A rank's contribution on a GPU as SecureSum takes it: the pass of device_pass.h and the sum of words by
// NCCL. Hashes and verdicts go through SecureSum's own communicator between hosts.
//
// One step: contribute(), then SecureSum::sum(step, attempt, bucket), then lanes(). Errors are those of
// SecureSum, NcclCommunicator and device_pass.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "comm/cuda/device_pass.h"
#include "comm/nccl_communicator.h"
#include "comm/secagg/bucket.h"
#include "comm/secagg/lane_layout.h"
#include "src/base/cuda/device.h"

namespace dpfa::comm::cuda {

class DeviceBucket : public secagg::Bucket {
 public:
  // For `lanes` lanes on the device of `nccl`. All work goes to `stream`.
  DeviceBucket(NcclCommunicator& nccl, int lane_bits, int64_t lanes, cudaStream_t stream);

  // What contributions of the steps that follow are made with.
  void set_share(const ShareSpec& spec) { pass_.set_share(spec); }
  // What the next sum is of: this rank's sum on the device, |sum| < 2^62, under draw number `draw`, which is
  // never used twice. It is read when SecureSum asks for the words.
  void contribute(const int64_t* sum, uint64_t draw);
  // The same of lanes that are contributed as they are.
  void contribute(const int32_t* lanes);

  // On the device: the sum over the ranks, after SecureSum::sum has returned.
  const int32_t* lanes() const;

  void make_words(const secagg::Pad* pad) override;
  void add_words() override;
  void read_words(const secagg::Pad* pad) override;
  Hashes hashes() override;
  void clear() override;

 private:
  int32_t* own_lanes();

  NcclCommunicator& nccl_;
  secagg::LaneLayout layout_;
  cudaStream_t stream_;
  DevicePass pass_;
  dpfa::cuda::DeviceArray<uint64_t> words_;  // of 32 bits: two in each
  dpfa::cuda::DeviceArray<int32_t> lanes_;   // empty where lanes are words
  const int64_t* sum_ = nullptr;             // one of the two while a contribution waits
  const int32_t* plain_ = nullptr;
  uint64_t draw_ = 0;
};

}  // namespace dpfa::comm::cuda
