// Secure sums of contributions on a GPU, of one rank: NCCL with one member, and masks that cancel in it.
#include "comm/cuda/device_bucket.h"
#include "comm/secagg/secure_sum.h"
#include "src/base/random/chacha20.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {
namespace {

using comm::cuda::DeviceBucket;
using comm::secagg::SecureSum;
using comm::secagg::SessionKeys;
using dpfa::cuda::DeviceArray;

SessionKeys session(bool cancelling) {
  const StreamKey key = RootKey::from_insecure_seed(1).stream(Purpose::kMask);
  comm::secagg::Bytes32 group;
  group.fill(9);
  SessionKeys keys = {{}, {}, comm::secagg::Secret(group)};
  keys.lanes.add_key(key, false);
  if (cancelling) keys.lanes.add_key(key, true);
  return keys;
}

std::vector<int32_t> some_lanes(int bits, int64_t count) {
  std::vector<int32_t> lanes(static_cast<size_t>(count));
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = static_cast<int32_t>(static_cast<uint32_t>(i + 1) * 2654435761u) >> (32 - bits);
  return lanes;
}

std::vector<int32_t> to_host(const int32_t* device, int64_t count) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  dpfa::cuda::check(
      cudaMemcpy(values.data(), device, values.size() * sizeof(int32_t), cudaMemcpyDeviceToHost),
      "copy from the device");
  return values;
}

void expect_own_lanes(Failures& f, comm::WordSums word_sums) {
  const auto host = comm::make_self_communicator();
  comm::NcclCommunicator nccl(*host, std::chrono::seconds(60), word_sums);
  for (const int bits : {16, 21, 32})
    for (const int64_t count : {1, 47, 4097, 1000003}) {
      SecureSum masked(*host, bits, session(/*cancelling=*/true)), plain(*host, bits);
      const std::vector<int32_t> lanes = some_lanes(bits, count);
      const DeviceArray<int32_t> on_device{std::span<const int32_t>(lanes)};
      DeviceBucket bucket(nccl, bits, count, nullptr);
      for (int64_t step = 0; step < 2; ++step)
        for (SecureSum* sum : {&masked, &plain}) {
          bucket.contribute(on_device.data());
          sum->sum(step, 0, bucket);
          f.expect(to_host(bucket.lanes(), count) == lanes, bits, " bits, ", count, " lanes");
        }
    }
}

void masked_sums_of_one_rank_are_its_lanes(Failures& f) {
  expect_own_lanes(f, comm::WordSums::kByAllReduce);
  expect_own_lanes(f, comm::WordSums::kByReduceScatter);
}

void a_mask_that_stays_voids_the_step(Failures& f) {
  const auto host = comm::make_self_communicator();
  comm::NcclCommunicator nccl(*host, std::chrono::seconds(60));
  for (const int bits : {16, 21, 32}) {
    SecureSum sum(*host, bits, session(/*cancelling=*/false));
    const std::vector<int32_t> lanes = some_lanes(bits, 5000);
    const DeviceArray<int32_t> on_device{std::span<const int32_t>(lanes)};
    DeviceBucket bucket(nccl, bits, 5000, nullptr);
    bucket.contribute(on_device.data());
    bool refused = false;
    try {
      sum.sum(0, 0, bucket);
    } catch (const comm::secagg::IntegrityError&) {
      refused = true;
    }
    f.expect(refused, bits, " bits: a sum under a mask was accepted");
    f.expect(to_host(bucket.lanes(), 5000) == std::vector<int32_t>(5000), bits, " bits: lanes of a void sum");
  }
}

}  // namespace

std::vector<Case> bucket_cases() {
  return {{"MaskedSumsOfOneRankAreItsLanes", masked_sums_of_one_rank_are_its_lanes},
          {"AMaskThatStaysVoidsTheStep", a_mask_that_stays_voids_the_step}};
}

}  // namespace dpfa::kernels::cuda::suite
