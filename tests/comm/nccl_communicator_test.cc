#include "comm/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "src/base/error.h"

namespace dpfa::comm {
namespace {

using namespace std::chrono_literals;

bool has_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

TEST(NcclCommunicator, WithoutAGpuIsUnsupportedAndSaysWhatToDo) {
  if (has_gpu()) GTEST_SKIP() << "not run: this machine has a GPU";
  const auto host = make_self_communicator();
  try {
    NcclCommunicator nccl(*host, 10s);
    FAIL() << "NCCL started without a GPU";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find("run on CPUs"), std::string::npos) << error.what();
  }
}

TEST(NcclCommunicator, OfOneRankKeepsItsValues) {
  if (!has_gpu()) GTEST_SKIP() << "not run: the collectives of NCCL need a GPU";
  const auto host = make_self_communicator();
  NcclCommunicator nccl(*host, 30s);
  EXPECT_EQ(nccl.size(), 1);
  const std::vector<int32_t> values = {3, -4, 1 << 30};
  const size_t bytes = values.size() * sizeof(int32_t);
  int32_t* device = nullptr;
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), bytes), cudaSuccess);
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(device, values.data(), bytes, cudaMemcpyHostToDevice), cudaSuccess);
  nccl.all_reduce_sum(device, values.size(), stream);
  nccl.all_reduce_max(device, values.size(), stream);
  nccl.broadcast(reinterpret_cast<std::byte*>(device), bytes, 0, stream);
  nccl.finish(stream);
  std::vector<int32_t> result(values.size());
  ASSERT_EQ(cudaMemcpy(result.data(), device, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(result, values);
  cudaStreamDestroy(stream);
  cudaFree(device);
}

template <typename Word>
void expect_words_kept(NcclCommunicator& nccl) {
  const std::vector<Word> words = {0, 5, ~Word{0}, Word{1} << (8 * sizeof(Word) - 1)};
  const size_t bytes = words.size() * sizeof(Word);
  Word* device = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), bytes), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(device, words.data(), bytes, cudaMemcpyHostToDevice), cudaSuccess);
  nccl.all_reduce_sum(device, words.size(), nullptr);
  nccl.finish(nullptr);
  std::vector<Word> result(words.size());
  ASSERT_EQ(cudaMemcpy(result.data(), device, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(result, words);
  cudaFree(device);
}

TEST(NcclCommunicator, OfOneRankKeepsWordsOfBothWidths) {
  if (!has_gpu()) GTEST_SKIP() << "not run: the collectives of NCCL need a GPU";
  const auto host = make_self_communicator();
  for (const WordSums word_sums : {WordSums::kByAllReduce, WordSums::kByReduceScatter}) {
    NcclCommunicator nccl(*host, 30s, word_sums);
    expect_words_kept<uint32_t>(nccl);
    expect_words_kept<uint64_t>(nccl);
  }
}

}  // namespace
}  // namespace dpfa::comm
