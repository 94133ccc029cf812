// Secure sums between the processes of a real mpirun. Runs on every rank.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "comm/secagg/lane_hash.h"
#include "comm/secagg/mask_graph.h"
#include "src/base/error.h"
#include "tests/comm/secagg/processes.h"

namespace dpfa::comm::secagg {
namespace {

using SecureSumOfProcesses = Processes;

TEST_F(SecureSumOfProcesses, IsExactForAllWidthsAndSizes) {
  for (const int colluders : {0, 1, world().size() - 1})
    for (const int bits : {16, 21, 32})
      for (const int64_t size : {1, 1001, 200003}) {
        const LaneLayout layout{bits, size};
        SecureSum sum(world(), layout.bits, agree(colluders));
        for (int64_t step = 0; step < 2; ++step) {
          std::vector<int32_t> lanes = contribution(world().rank(), layout);
          sum.sum(step, 0, lanes);
          ASSERT_EQ(lanes, expected_sum(layout)) << bits << " bits, " << size << " lanes";
        }
      }
}

// For worlds of many ranks that share two cores.
TEST_F(SecureSumOfProcesses, OfFewLanesIsExactWhateverTheNumberOfRanks) {
  for (const int colluders : {1, std::min(5, world().size() - 1)})
    for (const int bits : {16, 21, 32}) {
      const LaneLayout layout{bits, 1001};
      SecureSum sum(world(), layout.bits, agree(colluders));
      std::vector<int32_t> lanes = contribution(world().rank(), layout);
      sum.sum(0, 0, lanes);
      ASSERT_EQ(lanes, expected_sum(layout)) << bits << " bits, " << colluders << " colluders";
    }
}

// What the processes put on the wire under keys that they agreed on; all contribute the same. Keys are fresh:
// a bound of 7 on byte_excess() is crossed by correct code with probability 1e-8, 5.6 standard deviations of
// the correlation and of the mean with 2e-8, for each of at most 254 sums of ranks.
TEST_F(SecureSumOfProcesses, ShowsUniformWordsOfEveryRankAndOfEverySubsetOfRanks) {
  constexpr size_t kWords = 20000;
  std::vector<uint32_t> sent;
  Wiretap wiretap([&](int number, std::span<std::byte> bytes) {
    if (number == 0) sent = testing::words_of({bytes.begin(), bytes.end()});
  });
  SecureSum sum(wiretap, 32, agree(1));
  const std::vector<int32_t> plain = contribution(/*rank=*/0, {32, kWords});
  std::vector<int32_t> lanes = plain;
  sum.sum(0, 0, lanes);
  ASSERT_EQ(sent.size(), kWords);
  const std::vector<uint32_t> plain_words(plain.begin(), plain.end());
  EXPECT_LT(std::abs(testing::correlation(sent, plain_words)), 5.6 / std::sqrt(kWords));
  size_t equal = 0;
  double mean = 0;
  for (size_t i = 0; i < kWords; ++i) {
    equal += sent[i] == plain_words[i];
    mean += sent[i] / 0x1p32 / kWords;
  }
  EXPECT_EQ(equal, 0u);
  EXPECT_LT(std::abs(mean - 0.5), 5.6 / std::sqrt(12.0 * kWords));

  const auto bytes = world().all_gather(std::as_bytes(std::span(sent)));
  const std::vector<uint32_t> all = testing::words_of(bytes);
  const auto ranks = static_cast<size_t>(world().size());
  for (uint32_t subset = 1; subset < uint32_t{1} << ranks; ++subset) {
    std::vector<uint32_t> seen(kWords);
    for (size_t rank = 0; rank < ranks; ++rank)
      for (size_t i = 0; i < kWords && (subset >> rank & 1) != 0; ++i) seen[i] += all[rank * kWords + i];
    if (subset + 1 == uint32_t{1} << ranks) {
      for (size_t i = 0; i < kWords; ++i) ASSERT_EQ(seen[i], static_cast<uint32_t>(ranks) * plain_words[i]);
    } else {
      ASSERT_LT(testing::byte_excess(seen), 7) << "subset " << subset;
    }
  }
}

// Keys come from the operating system: of 32 random keys and more one byte has at most 8 values with a
// probability below 1e-30.
TEST_F(SecureSumOfProcesses, HaveOtherKeysForEveryPairInWhichAllBytesVary) {
  constexpr size_t kStarts = 16;
  const size_t neighbours = mask_neighbours(world().rank(), world().size(), 1).size();
  std::set<std::vector<std::byte>> keys;
  std::array<std::set<std::byte>, 32> values;
  for (size_t start = 0; start < kStarts; ++start) {
    const SessionKeys session = agree(1);
    for (const Masks* masks : {&session.lanes, &session.hashes})
      for (size_t number = 0; number < neighbours; ++number) {
        const auto words = test::MasksAccess::key(*masks, number).words();
        const std::vector<std::byte> all = world().all_gather(std::as_bytes(std::span(words)));
        for (auto key = all.begin(); key != all.end(); key += 32) {
          keys.emplace(key, key + 32);
          for (size_t i = 0; i < 32; ++i) values[i].insert(key[static_cast<std::ptrdiff_t>(i)]);
        }
      }
  }
  const size_t pairs = neighbours * static_cast<size_t>(world().size()) / 2;
  EXPECT_EQ(keys.size(), 2 * pairs * kStarts) << "for lanes and for hashes";
  for (size_t i = 0; i < values.size(); ++i) EXPECT_GT(values[i].size(), 8u) << "byte " << i;
}

// With other masks and the same points the sums of halves must be other numbers for the same total: unmasked
// ones would carry more than the hash of the sum.
TEST_F(SecureSumOfProcesses, ShowNothingOfSingleHashesButTheHashOfTheSum) {
  std::set<uint64_t> totals;
  std::set<std::vector<uint64_t>> sums;
  for (uint32_t keys = 0; keys < 8; ++keys) {
    std::vector<uint64_t> sum(4);
    Wiretap wiretap({}, [&](int number, std::span<std::byte> bytes) {
      if (number != 1) return;
      ASSERT_EQ(bytes.size(), sum.size() * sizeof(uint64_t));
      std::memcpy(sum.data(), bytes.data(), bytes.size());
    });
    SessionKeys session = testing::fixed_session(world().rank(), world().size());
    session.hashes = testing::fixed_masks(world().rank(), world().size(), 1, 100 + keys);
    SecureSum secure(wiretap, 32, std::move(session));
    std::vector<int32_t> lanes = contribution(world().rank(), {32, 40});
    secure.sum(0, 0, lanes);
    totals.insert(
        add_mod(sum[0] % LaneHash::kPrime, multiply_mod(sum[1] % LaneHash::kPrime, uint64_t{1} << 31)));
    sums.insert(sum);
  }
  EXPECT_EQ(totals.size(), 1u);
  EXPECT_GT(sums.size(), 2u);  // of few ranks there are few
}

TEST_F(SecureSumOfProcesses, ByReduceScatterAndGatherHasTheSameBits) {
  const auto by_slices = make_mpi_communicator(std::nullopt, WordSums::kByReduceScatter),
             whole = make_mpi_communicator(std::nullopt, WordSums::kByAllReduce);
  for (const int bits : {16, 21, 32})
    for (const int64_t size : {1, 5, 1001, 30011}) {  // of 32 bits no number of ranks divides them
      const LaneLayout layout{bits, size};
      for (Communicator* communicator : {by_slices.get(), whole.get()})
        for (const bool masked : {true, false}) {
          SecureSum sum = masked ? SecureSum(*communicator, bits, agree(1)) : SecureSum(*communicator, bits);
          std::vector<int32_t> lanes = contribution(world().rank(), layout);
          sum.sum(3, 0, lanes);
          ASSERT_EQ(lanes, expected_sum(layout))
              << bits << " bits, " << size << " lanes, masked: " << masked
              << (communicator == whole.get() ? ", by all-reduce" : ", by reduce-scatter");
        }
    }
}

TEST_F(SecureSumOfProcesses, IsVoidOnAllRanksWhereOneHasAnotherKey) {
  for (int wrong = 0; wrong < world().size(); ++wrong) {
    SessionKeys keys = agree(1);
    if (world().rank() == wrong) keys.lanes.add_key(StreamKey({1}), false);
    SecureSum sum(world(), 32, std::move(keys));
    std::vector<int32_t> lanes(1000, 1);
    EXPECT_THROW(sum.sum(0, 0, lanes), IntegrityError) << "rank " << wrong;
    EXPECT_EQ(lanes, std::vector<int32_t>(1000));
  }
}

TEST_F(SecureSumOfProcesses, IsVoidOnAllRanksWhereALaneWraps) {
  SecureSum sum(world(), 16, agree(1));
  std::vector<int32_t> lanes(1000, 1);
  if (world().rank() < 2) lanes[7] = 1 << 14;  // together 2^15 and more
  EXPECT_THROW(sum.sum(0, 0, lanes), IntegrityError);
}

TEST_F(SecureSumOfProcesses, StartsOnNoRankWhereOneHasAnotherIdentityOrConfiguration) {
  for (int wrong = 0; wrong < world().size(); ++wrong) {
    const bool other = world().rank() == wrong;
    EXPECT_THROW(agree(1, {{"plan", other ? "abd" : "abc"}}), ConfigError);
    EXPECT_THROW(agree_on_keys(world(), other ? Identity::generate() : own_, allow_list_, 1, {}),
                 ConfigError);
  }
  EXPECT_NO_THROW(agree(1));
}

}  // namespace
}  // namespace dpfa::comm::secagg
