// Sums in which some ranks make their words by the device's per-thread code, on the host.
#include "comm/secagg/bucket.h"

#include <gtest/gtest.h>

#include <atomic>

#include "comm/secagg/lane_hash.h"
#include "comm/secagg/secure_sum.h"
#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "tests/comm/cuda/host_pass.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/thread_world.h"

namespace dpfa::comm::secagg {
namespace {

using dpfa::testing::fixed_session;
using dpfa::testing::ThreadWorld;
using Lanes = std::vector<int32_t>;

// What DeviceBucket is, with the host in place of the device and of NCCL.
template <int kBits>
class EmulatedBucket : public Bucket {
 public:
  EmulatedBucket(Communicator& communicator, Lanes& lanes)
      : communicator_(communicator), lanes_(lanes), words_((lanes.size() + G::kPerWord - 1) / G::kPerWord) {}

  void make_words(const Pad* pad) override {
    std::vector<cuda::MaskKey> keys;
    cuda::testing::Hashes points;
    if (pad != nullptr) {
      for (const Masks::Key& key : pad->masks.keys())
        keys.push_back(cuda::testing::mask_key(key.key, key.subtract));
      points.push_back(hash_points(pad->points, pad->nonce, 0));
    }
    powers_ = cuda::testing::powers_of(points, G::kLanes);
    take(hashes_.made,
         cuda::testing::make_words<kBits>(cuda::PlainLanes{lanes_.data(), 0}, keys, powers_,
                                          pad != nullptr ? pad->nonce : 0, 0, count(), words_.data()));
  }
  void add_words() override { communicator_.all_reduce_sum(std::span(words_)); }
  void read_words(const Pad*) override {
    take(hashes_.read, cuda::testing::read_words<kBits>(powers_, 0, count(), words_.data(), lanes_.data()));
  }
  Hashes hashes() override { return hashes_; }
  void clear() override { std::fill(lanes_.begin(), lanes_.end(), 0); }

 private:
  using G = cuda::Group<kBits>;
  int64_t count() const { return static_cast<int64_t>(lanes_.size()); }
  static void take(HashTotals& to, const cuda::testing::Hashes& hashes) {
    to.clear();
    for (const auto& of_slice : hashes) to.insert(to.end(), of_slice.begin(), of_slice.end());
  }

  Communicator& communicator_;
  Lanes& lanes_;
  std::vector<typename G::Word> words_;
  std::vector<cuda::SlicePowers> powers_;
  Hashes hashes_;
};

constexpr int kRanks = 4;

// Contributions whose sum stays within the lane's range.
Lanes contribution(int rank, int bits, size_t size) {
  Lanes lanes(size);
  std::vector<uint32_t> words(size);
  fill_words(StreamKey({static_cast<uint32_t>(rank), 77}), 0, 0, words);
  for (size_t i = 0; i < size; ++i)
    lanes[i] = static_cast<int32_t>(words[i]) >> (32 - bits + 2);  // a quarter of the range
  return lanes;
}

// One step of a rank: the even ones are devices.
template <int kBits>
void sum_of_rank(SecureSum& sum, Communicator& world, int64_t step, Lanes& lanes) {
  if (world.rank() % 2 == 0) {
    EmulatedBucket<kBits> bucket(world, lanes);
    sum.sum(step, 0, bucket);
  } else {
    sum.sum(step, 0, lanes);
  }
}

template <int kBits>
void expect_exact(size_t size, bool masked) {
  Lanes expected(size);
  for (int rank = 0; rank < kRanks; ++rank) {
    const Lanes one = contribution(rank, kBits, size);
    for (size_t i = 0; i < size; ++i) expected[i] += one[i];
  }
  ThreadWorld(kRanks).run([&](Communicator& world) {
    SecureSum sum =
        masked ? SecureSum(world, kBits, fixed_session(world.rank(), kRanks, 2)) : SecureSum(world, kBits);
    for (int64_t step = 0; step < 2; ++step) {
      Lanes lanes = contribution(world.rank(), kBits, size);
      sum_of_rank<kBits>(sum, world, step, lanes);
      ASSERT_EQ(lanes, expected) << kBits << " bits, " << size << " lanes";
    }
  });
}

TEST(DeviceBucket, AddsUpWithThoseOfProcessorsToTheExactVerifiedSum) {
  for (const size_t size : {size_t{1}, size_t{17}, size_t{3073}, size_t{12290}})
    for (const bool masked : {true, false}) {
      expect_exact<16>(size, masked);
      expect_exact<21>(size, masked);
      expect_exact<32>(size, masked);
    }
}

TEST(DeviceBucket, IsVoidOnAllRanksWhereABitWasAlteredOrALaneWrapped) {
  for (const bool wrap : {true, false}) {
    std::atomic<int> refusals = 0;
    ThreadWorld world(kRanks, [&](int, const std::string& operation, int, ThreadWorld::Parts& parts) {
      if (!wrap && operation == "sum32") parts[1][7] ^= std::byte(4);
    });
    world.run([&](Communicator& communicator) {
      SecureSum sum(communicator, 16, fixed_session(communicator.rank(), kRanks));
      Lanes lanes(50, wrap ? 1 << 13 : 1);  // four times 2^13 is one more than 16 bits hold
      try {
        sum_of_rank<16>(sum, communicator, 0, lanes);
      } catch (const IntegrityError&) {
        ++refusals;
        EXPECT_EQ(lanes, Lanes(50));
      }
    });
    EXPECT_EQ(refusals, kRanks) << (wrap ? "wrapped" : "altered");
  }
}

TEST(DeviceBucket, IsRefusedAPadThatMayHaveBeenUsed) {
  ThreadWorld(1).run([&](Communicator& world) {
    SecureSum sum(world, 32, fixed_session(0, 1, 0));
    Lanes lanes(10, 1);
    EmulatedBucket<32> bucket(world, lanes);
    sum.sum(5, 1, bucket);
    EXPECT_THROW(sum.sum(5, 1, bucket), InternalError);
    EXPECT_THROW(sum.sum(5, 0, lanes), InternalError);
    sum.sum(6, 0, bucket);
    EXPECT_EQ(lanes, Lanes(10, 1));
  });
}

}  // namespace
}  // namespace dpfa::comm::secagg
