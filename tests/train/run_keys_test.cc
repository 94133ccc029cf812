// The keys of one process start, as two ranks in one process make them.
#include "src/train/run_keys.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/support/recording_communicator.h"

namespace dpfa::train {
namespace {

// Rank 0 and rank 1 one after the other: what rank 0 broadcasts is kept and given to rank 1.
class RankAfterRank : public test::RecordingCommunicator {
 public:
  explicit RankAfterRank(int rank, std::vector<std::byte>& shared) : rank_(rank), shared_(shared) {}
  int rank() const override { return rank_; }
  int size() const override { return 2; }
  void broadcast(std::span<std::byte> bytes, int root) override {
    EXPECT_EQ(root, 0);
    if (rank_ == 0) shared_.assign(bytes.begin(), bytes.end());
    std::memcpy(bytes.data(), shared_.data(), shared_.size());
  }

 private:
  int rank_;
  std::vector<std::byte>& shared_;
};

TEST(RunKeys, LetNoRankKnowTheSamplingKeyOfAnotherFromWhatRankZeroShares) {
  std::vector<std::byte> shared;
  RankAfterRank first(0, shared), second(1, shared);
  const RunKeys zero = make_run_keys(first, std::nullopt), one = make_run_keys(second, std::nullopt);
  EXPECT_EQ(zero.noise.words(), one.noise.words());
  EXPECT_NE(zero.sampling.words(), one.sampling.words());
  // Nor is it a stream of the root that all ranks hold.
  ASSERT_EQ(shared.size(), 32u);
  std::array<uint8_t, 32> bytes;
  std::memcpy(bytes.data(), shared.data(), bytes.size());
  const RootKey root = RootKey::from_bytes(bytes);
  for (const RunKeys* keys : {&zero, &one}) {
    EXPECT_EQ(keys->noise.words(), root.stream(Purpose::kNoise).words());
    EXPECT_NE(keys->sampling.words(), root.stream(Purpose::kSampling).words());
    EXPECT_NE(keys->dropout.words(), root.stream(Purpose::kDropout).words());
  }
}

}  // namespace
}  // namespace dpfa::train
