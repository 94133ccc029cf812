// Secure sums between the GPUs of a real mpirun, one for each rank. Runs on every rank.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "comm/cuda/device_bucket.h"
#include "comm/secagg/secure_sum.h"
#include "src/base/cuda/device.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secagg_keys.h"

namespace dpfa::comm::cuda {
namespace {

using dpfa::testing::fixed_session;
using dpfa::testing::world;
using Lanes = std::vector<int32_t>;

// Whether every rank has a GPU of its own.
bool gpu_for_every_rank() {
  std::array<int64_t, 1> lacking = {dpfa::cuda::device_count() < world().local_size() ? 1 : 0};
  world().all_reduce_sum(std::span<int64_t>(lacking));
  return lacking[0] == 0;
}

// A quarter of the lane's range, so that four ranks do not leave it.
Lanes contribution(int rank, int bits, int64_t count) {
  Lanes lanes(static_cast<size_t>(count));
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = static_cast<int32_t>((static_cast<uint32_t>(i) + 17u * static_cast<uint32_t>(rank) + 1) *
                                    2654435761u) >>
               (32 - bits + 2);
  return lanes;
}

void expect_sums_of_the_cpu(WordSums word_sums) {
  NcclCommunicator nccl(world(), std::chrono::seconds(60), word_sums);
  for (const int bits : {16, 21, 32})
    for (const int64_t count : {1, 47, 4097, 1000003}) {
      const auto session = [] { return fixed_session(world().rank(), world().size()); };
      secagg::SecureSum on_device(world(), bits, session()), on_host(world(), bits, session());
      Lanes lanes = contribution(world().rank(), bits, count);
      const dpfa::cuda::DeviceArray<int32_t> input{std::span<const int32_t>(lanes)};
      DeviceBucket bucket(nccl, bits, count, nullptr);
      bucket.contribute(input.data());
      on_device.sum(0, 0, bucket);
      on_host.sum(0, 0, lanes);
      Lanes result(lanes.size());
      dpfa::cuda::check(
          cudaMemcpy(result.data(), bucket.lanes(), result.size() * sizeof(int32_t), cudaMemcpyDeviceToHost),
          "copy from the device");
      ASSERT_EQ(result, lanes) << bits << " bits, " << count << " lanes";
    }
}

TEST(SecureSumOfDevices, IsExactForEveryWidthAndAsTheCpusIs) {
  if (!gpu_for_every_rank()) GTEST_SKIP() << "not run: this needs a GPU for every rank";
  expect_sums_of_the_cpu(WordSums::kByAllReduce);
}

TEST(SecureSumOfDevices, IsTheSameByReduceScatterForCountsThatTheRanksDoNotDivide) {
  if (!gpu_for_every_rank()) GTEST_SKIP() << "not run: this needs a GPU for every rank";
  expect_sums_of_the_cpu(WordSums::kByReduceScatter);
}

TEST(SecureSumOfDevices, IsVoidOnAllRanksWhereOneHasAnotherKey) {
  if (!gpu_for_every_rank()) GTEST_SKIP() << "not run: this needs a GPU for every rank";
  NcclCommunicator nccl(world(), std::chrono::seconds(60));
  secagg::SessionKeys keys = fixed_session(world().rank(), world().size());
  if (world().rank() == 1) keys.lanes.add_key(StreamKey({1}), false);
  secagg::SecureSum sum(world(), 32, std::move(keys));
  const dpfa::cuda::DeviceArray<int32_t> input{
      std::span<const int32_t>(contribution(world().rank(), 32, 5000))};
  DeviceBucket bucket(nccl, 32, 5000, nullptr);
  bucket.contribute(input.data());
  EXPECT_THROW(sum.sum(0, 0, bucket), secagg::IntegrityError);
}

}  // namespace
}  // namespace dpfa::comm::cuda
