// The keys of one process start, as two ranks in one process make them.
#include "src/train/run_keys.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "src/base/error.h"
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

// What rank 0 shares gives no key but the public one, under any purpose that there is.
TEST(RunKeys, OfNoiseSharesAreKnownToNoOtherRank) {
  std::vector<std::byte> shared;
  RankAfterRank first(0, shared), second(1, shared);
  const RunKeys zero = make_run_keys(first, std::nullopt, /*noise_shares=*/true),
                one = make_run_keys(second, std::nullopt, /*noise_shares=*/true);
  EXPECT_EQ(zero.init.words(), one.init.words());
  EXPECT_NE(zero.noise.words(), one.noise.words());
  EXPECT_NE(zero.dither.words(), one.dither.words());
  EXPECT_NE(zero.sampling.words(), one.sampling.words());
  std::array<uint8_t, 32> bytes;
  ASSERT_EQ(shared.size(), bytes.size());
  std::memcpy(bytes.data(), shared.data(), bytes.size());
  const RootKey root = RootKey::from_bytes(bytes);
  for (uint32_t purpose = 1; purpose <= 16; ++purpose)
    for (uint64_t index = 0; index < 2; ++index)
      for (const RunKeys* keys : {&zero, &one})
        for (const StreamKey* secret : {&keys->noise, &keys->dither, &keys->sampling, &keys->dropout})
          EXPECT_NE(secret->words(), root.stream(static_cast<Purpose>(purpose), index).words());
}

// Two ranks whose system gave both the same root, as copies of one virtual machine may get.
class ClonedRanks : public test::RecordingCommunicator {
 public:
  std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
    std::vector<std::byte> all(bytes.begin(), bytes.end());
    all.insert(all.end(), bytes.begin(), bytes.end());
    return all;
  }
};

TEST(RunKeys, ThatTwoRanksDrewAlikeAreRefused) {
  ClonedRanks cloned;
  try {
    make_run_keys(cloned, std::nullopt, /*noise_shares=*/true);
    ADD_FAILURE() << "accepted";
  } catch (const StateError& error) {
    EXPECT_NE(std::string(error.what()).find("same secret key"), std::string::npos) << error.what();
  }
  EXPECT_NO_THROW(make_run_keys(cloned, /*insecure_seed=*/7, /*noise_shares=*/true));
}

TEST(RunKeys, OfAnInsecureSeedStillGiveEachRankItsOwnShare) {
  std::vector<std::byte> shared;
  RankAfterRank first(0, shared), second(1, shared);
  EXPECT_NE(make_run_keys(first, 7, true).noise.words(), make_run_keys(second, 7, true).noise.words());
  EXPECT_EQ(make_run_keys(first, 7).noise.words(), make_run_keys(second, 7).noise.words());
}

}  // namespace
}  // namespace dpfa::train
