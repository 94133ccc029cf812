// Sums over ranks that are threads of this process, so that the wires can be seen and altered.
#include "comm/secagg/secure_sum.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <cstring>
#include <set>

#include "comm/secagg/lane_hash.h"
#include "src/base/error.h"
#include "src/base/random/chacha20.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/thread_world.h"

namespace dpfa::comm::secagg {
namespace {

using testing::fixed_session;
using testing::ThreadWorld;
using Lanes = std::vector<int32_t>;

// Contributions whose sum over `ranks` stays within the lane's range.
Lanes contribution(int rank, int ranks, LaneLayout layout) {
  std::vector<uint32_t> words(static_cast<size_t>(layout.lanes));
  fill_words(StreamKey({static_cast<uint32_t>(rank), 77}), 0, 0, words);
  Lanes lanes(words.size());
  const int64_t bound = ((int64_t{1} << (layout.bits - 1)) - 1) / ranks;
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = static_cast<int32_t>(static_cast<int64_t>(words[i]) % (2 * bound + 1) - bound);
  return lanes;
}

Lanes expected_sum(int ranks, LaneLayout layout) {
  Lanes sum(static_cast<size_t>(layout.lanes));
  for (int rank = 0; rank < ranks; ++rank) {
    const Lanes one = contribution(rank, ranks, layout);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += one[i];
  }
  return sum;
}

TEST(SecureSum, IsExactForAnyRanksWidthsSizesAndColluders) {
  for (const int ranks : {1, 2, 3, 5, 8, 16, 64})
    for (const int bits : {16, 21, 32})
      for (const int64_t size : {0, 1, 17, 3071, 3072, 3073, 7001}) {
        if (ranks > 8 && size > 17) continue;
        const LaneLayout layout{bits, size};
        const Lanes expected = expected_sum(ranks, layout);
        ThreadWorld(ranks).run([&](Communicator& world) {
          SecureSum sum(world, layout.bits, fixed_session(world.rank(), ranks, std::min(2, ranks - 1)));
          for (int64_t step = 0; step < 2; ++step) {
            Lanes lanes = contribution(world.rank(), ranks, layout);
            sum.sum(step, 0, lanes);
            ASSERT_EQ(lanes, expected) << ranks << " ranks, " << bits << " bits, " << size << " lanes";
          }
        });
      }
}

TEST(SecureSum, InPlaintextIsTheSameSumWithoutMasks) {
  for (const int bits : {16, 21, 32}) {
    const LaneLayout layout{bits, 1000};
    ThreadWorld(3).run([&](Communicator& world) {
      SecureSum sum(world, layout.bits);
      EXPECT_FALSE(sum.masked());
      Lanes lanes = contribution(world.rank(), 3, layout);
      sum.sum(0, 0, lanes);
      ASSERT_EQ(lanes, expected_sum(3, layout));
    });
  }
}

TEST(SecureSum, PreparesEveryLaneOnceBeforeItIsMasked) {
  const LaneLayout layout{32, 8000};
  ThreadWorld(3).run([&](Communicator& world) {
    omp_set_num_threads(2);
    SecureSum sum(world, layout.bits, fixed_session(world.rank(), 3));
    Lanes lanes(8000, 1);
    std::atomic<size_t> prepared = 0;
    sum.sum(0, 0, lanes, [&](int64_t first, std::span<int32_t> part) {
      prepared += part.size();
      for (size_t i = 0; i < part.size(); ++i)
        part[i] += static_cast<int32_t>(first) + static_cast<int32_t>(i);
    });
    EXPECT_EQ(prepared, 8000u);
    for (int32_t i = 0; i < 8000; ++i) ASSERT_EQ(lanes[static_cast<size_t>(i)], 3 * (i + 1));
  });
}

TEST(SecureSum, WhatPreparingThrowsReachesTheCallerFromEveryThread) {
  for (const int64_t refused : {0, 3072, 6144}) {
    ThreadWorld world(1);
    world.run([&](Communicator& communicator) {
      omp_set_num_threads(3);
      SecureSum sum(communicator, 32);
      Lanes lanes(8000);
      const auto prepare = [&](int64_t first, std::span<int32_t>) {
        if (first == refused) throw InternalError("no lanes from here");
      };
      EXPECT_THROW(sum.sum(0, 0, lanes, prepare), InternalError);
    });
  }
}

// What the ranks put on the wire in the operations of one kind, operation after operation.
std::vector<ThreadWorld::Parts> captured(int ranks, LaneLayout layout, int steps, const Lanes& plain,
                                         const std::string& kind = "sum32") {
  std::vector<ThreadWorld::Parts> sent;
  ThreadWorld world(ranks, [&](int receiver, const std::string& operation, int, ThreadWorld::Parts& parts) {
    if (receiver == 0 && operation == kind) sent.push_back(parts);
  });
  world.run([&](Communicator& communicator) {
    SecureSum sum(communicator, layout.bits, fixed_session(communicator.rank(), ranks));
    for (int64_t step = 0; step < steps; ++step) {
      Lanes lanes = plain;
      sum.sum(step, 0, lanes);
    }
  });
  return sent;
}

std::vector<uint64_t> wide_words_of(const std::vector<std::byte>& bytes) {
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

std::vector<uint64_t> residues_of(const std::vector<std::byte>& hashes) {
  const std::vector<uint64_t> words = wide_words_of(hashes);
  std::vector<uint64_t> residues;
  for (size_t i = 0; i < words.size(); i += 2) residues.push_back(words[i] | words[i + 1] << 31);
  return residues;
}

TEST(SecureSum, SendsNothingButUniformWords) {
  const Lanes zeros(20000);
  for (const int bits : {16, 32}) {
    const auto sent = captured(4, {bits, 20000}, 1, zeros);
    for (const auto& part : sent.at(0)) EXPECT_LT(testing::byte_excess(part), 7) << bits << " bits";
  }
  const auto wide = captured(4, {21, 20000}, 1, zeros, "sum64");
  ASSERT_EQ(wide.size(), 2u);
  for (const auto& part : wide.at(0)) EXPECT_LT(testing::byte_excess(part), 7);
  // The hashes of many steps, together: residues of 61 bits, the low 31 and the high 30 in words of their
  // own.
  std::vector<std::byte> hashes;
  const auto sent = captured(3, {32, 40}, 400, Lanes(40), "sum64");
  for (const auto& operation : sent)
    for (const uint64_t residue : residues_of(operation.at(1))) {
      const auto bytes = std::as_bytes(std::span(&residue, 1)).first(7);
      hashes.insert(hashes.end(), bytes.begin(), bytes.end());
    }
  ASSERT_EQ(hashes.size(), 400u * 2 * 7);
  EXPECT_LT(testing::byte_excess(hashes), 7);
}

TEST(SecureSum, SendsAndGivesTheSameBitsForAnyNumberOfThreads) {
  for (const int bits : {16, 21, 32}) {
    const LaneLayout layout{bits, 40001};
    std::vector<ThreadWorld::Parts> expected;
    for (const int threads : {1, 2, 3, 7}) {
      std::vector<ThreadWorld::Parts> sent;
      ThreadWorld world(2, [&](int receiver, const std::string&, int, ThreadWorld::Parts& parts) {
        if (receiver == 0) sent.push_back(parts);
      });
      world.run([&](Communicator& communicator) {
        omp_set_num_threads(threads);
        SecureSum sum(communicator, bits, fixed_session(communicator.rank(), 2));
        Lanes lanes = contribution(communicator.rank(), 2, layout);
        sum.sum(0, 0, lanes);
        ASSERT_EQ(lanes, expected_sum(2, layout)) << bits << " bits, " << threads << " threads";
      });
      EXPECT_EQ(sent.size(), 3u);  // words, hashes, verdicts
      if (threads == 1) expected = sent;
      EXPECT_TRUE(sent == expected) << bits << " bits, " << threads << " threads";
    }
  }
}

// Of the hashes everybody sees sums of halves over the ranks. With other mask keys and the same points they
// must be other numbers for the same total: sums of unmasked halves would carry more than the hash of the
// sum.
TEST(SecureSum, ShowsNothingOfSingleHashesButTheHashOfTheSum) {
  std::set<uint64_t> totals;
  std::set<std::vector<uint64_t>> sums;
  for (uint32_t keys = 0; keys < 8; ++keys) {
    std::vector<uint64_t> sum(4);
    ThreadWorld world(3, [&](int to, const std::string& operation, int, ThreadWorld::Parts& parts) {
      if (to != 0 || operation != "sum64") return;
      for (const auto& part : parts)
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += wide_words_of(part).at(i);
    });
    world.run([&](Communicator& communicator) {
      SessionKeys session = fixed_session(communicator.rank(), 3);
      session.hashes = testing::fixed_masks(communicator.rank(), 3, 1, 100 + keys);
      SecureSum secure(communicator, 32, std::move(session));
      Lanes lanes = contribution(communicator.rank(), 3, {32, 40});
      secure.sum(0, 0, lanes);
    });
    totals.insert((sum[0] % LaneHash::kPrime + multiply_mod(sum[1] % LaneHash::kPrime, uint64_t{1} << 31)) %
                  LaneHash::kPrime);
    sums.insert(sum);
  }
  EXPECT_EQ(totals.size(), 1u);
  EXPECT_EQ(sums.size(), 8u);
}

TEST(SecureSum, TwoStepsUseUnrelatedPads) {
  const auto sent = captured(3, {32, 5000}, 2, Lanes(5000, 3));
  for (size_t rank = 0; rank < 3; ++rank) {
    std::vector<uint32_t> change = testing::words_of(sent.at(0)[rank]);
    const std::vector<uint32_t> later = testing::words_of(sent.at(1)[rank]);
    for (size_t i = 0; i < change.size(); ++i) change[i] -= later[i];
    EXPECT_LT(testing::byte_excess(change), 7) << "rank " << rank;
  }
}

TEST(SecureSum, BytesOnTheWireAreThoseOfTheLayoutAndASlicesHashes) {
  for (const int bits : {16, 21, 32}) {
    const LaneLayout layout{bits, 6000};
    std::atomic<size_t> bytes = 0;
    ThreadWorld world(2, [&](int receiver, const std::string&, int, ThreadWorld::Parts& parts) {
      if (receiver == 0) bytes += parts[0].size();
    });
    world.run([&](Communicator& communicator) {
      SecureSum sum(communicator, layout.bits, fixed_session(communicator.rank(), 2));
      Lanes lanes(6000);
      sum.sum(0, 0, lanes);
    });
    EXPECT_EQ(bytes, static_cast<size_t>(layout.bytes()) + 32 + 32);  // hashes of a slice, verdict
  }
}

TEST(SecureSum, RefusesAPadThatMayHaveBeenUsed) {
  ThreadWorld(2).run([&](Communicator& world) {
    SecureSum sum(world, 32, fixed_session(world.rank(), 2));
    Lanes lanes(10, 1);
    sum.sum(5, 0, lanes);
    sum.sum(5, 1, lanes);
    EXPECT_THROW(sum.sum(5, 1, lanes), InternalError);
    EXPECT_THROW(sum.sum(5, 0, lanes), InternalError);
    EXPECT_THROW(sum.sum(4, 9, lanes), InternalError);
    sum.sum(6, 0, lanes);
    EXPECT_EQ(lanes, Lanes(10, 8));
  });
}

// Runs one step on a world with this wire; expects every rank to find it void and to keep nothing of it.
void expect_void(int ranks, LaneLayout layout, const ThreadWorld::Wire& wire,
                 const std::function<SessionKeys(int rank)>& keys, int64_t step_of_last_rank = 0) {
  const Lanes zeros(static_cast<size_t>(layout.lanes));
  std::atomic<int> refusals = 0;
  ThreadWorld(ranks, wire).run([&](Communicator& world) {
    SecureSum sum(world, layout.bits, keys(world.rank()));
    Lanes lanes = contribution(world.rank(), ranks, layout);
    try {
      sum.sum(world.rank() + 1 == ranks ? step_of_last_rank : 0, 0, lanes);
    } catch (const IntegrityError&) {
      ++refusals;
      EXPECT_EQ(lanes, zeros);
    }
  });
  EXPECT_EQ(refusals, ranks);
}

void expect_void(int ranks, LaneLayout layout, const ThreadWorld::Wire& wire) {
  expect_void(ranks, layout, wire, [&](int rank) { return fixed_session(rank, ranks); });
}

TEST(SecureSum, AnyAlteredBitVoidsTheStepOnAllRanks) {
  const LaneLayout layout{32, 40};
  for (size_t bit = 0; bit < 32 * 40; bit += 7)
    expect_void(3, layout, [&](int, const std::string& operation, int, ThreadWorld::Parts& parts) {
      if (operation == "sum32") parts[1][bit / 8] ^= std::byte(1 << bit % 8);
    });
}

TEST(SecureSum, ABitAlteredForOneRankAloneVoidsTheStepOnAllRanks) {
  for (const char* where : {"sum32", "sum64"})
    for (int receiver = 0; receiver < 3; ++receiver)
      expect_void(3, {32, 40}, [&](int to, const std::string& operation, int, ThreadWorld::Parts& parts) {
        if (operation == where && to == receiver) parts[2][5] ^= std::byte(1);
      });
}

TEST(SecureSum, LostDoubledAndExchangedDataVoidTheStepOnAllRanks) {
  using Parts = ThreadWorld::Parts;
  const std::vector<std::function<void(Parts&)>> alterations = {
      [](Parts& parts) { std::fill(parts[0].begin(), parts[0].end(), std::byte(0)); },  // a lost rank
      [](Parts& parts) { std::fill_n(parts[1].begin() + 4000, 4000, std::byte(0)); },   // a lost chunk
      [](Parts& parts) { parts[2] = parts[1]; },                                        // a doubled rank
      [](Parts& parts) {
        std::swap_ranges(parts[1].begin(), parts[1].begin() + 400, parts[1].begin() + 400);
      },
      [](Parts& parts) { std::rotate(parts[0].begin(), parts[0].begin() + 4, parts[0].end()); },
  };
  for (const auto& alter : alterations)
    expect_void(3, {32, 5000}, [&](int, const std::string& operation, int, Parts& parts) {
      if (operation == "sum32") alter(parts);
    });
}

TEST(SecureSum, AMaskKeyThatDiffersOnOneRankVoidsTheStepOnAllRanks) {
  expect_void(4, {21, 500}, {}, [](int rank) {
    SessionKeys keys = fixed_session(rank, 4);
    if (rank == 2) keys.lanes.add_key(StreamKey({1}), false);
    return keys;
  });
  expect_void(4, {32, 500}, {}, [](int rank) {
    SessionKeys keys = fixed_session(rank, 4);
    if (rank == 2) keys.hashes.add_key(StreamKey({1}), false);
    return keys;
  });
}

TEST(SecureSum, AnotherSecretOfTheGroupOnOneRankVoidsTheStepOnAllRanks) {
  expect_void(4, {32, 500}, {}, [](int rank) {
    Bytes32 other = {1};
    SessionKeys keys = fixed_session(rank, 4);
    if (rank == 3) keys.group = Secret(other);
    return keys;
  });
}

TEST(SecureSum, RanksAtDifferentStepsVoidTheStepOnAllRanks) {
  expect_void(
      3, {32, 500}, {}, [](int rank) { return fixed_session(rank, 3); }, /*step_of_last_rank=*/1);
}

TEST(SecureSum, AForgedVerdictVoidsTheStepWhereItArrives) {
  std::atomic<int> refusals = 0;
  ThreadWorld world(3, [&](int to, const std::string& operation, int, ThreadWorld::Parts& parts) {
    if (operation == "gather" && to == 1) parts[0] = parts[2];
  });
  world.run([&](Communicator& communicator) {
    SecureSum sum(communicator, 32, fixed_session(communicator.rank(), 3));
    Lanes lanes(10);
    try {
      sum.sum(0, 0, lanes);
    } catch (const IntegrityError&) {
      ++refusals;
      EXPECT_EQ(communicator.rank(), 1);
    }
  });
  EXPECT_EQ(refusals, 1);
}

TEST(SecureSum, ALaneThatWrapsVoidsTheStepAndTheLargestThatDoesNotIsExact) {
  for (const int bits : {16, 21, 32})
    for (const int sign : {1, -1}) {
      const int64_t top = (int64_t{1} << (bits - 1)) - 1;
      const int64_t largest = sign > 0 ? top : -top - 1;
      for (const int64_t beyond : {0, 1}) {
        std::atomic<int> refusals = 0;
        ThreadWorld(2).run([&](Communicator& world) {
          SecureSum sum(world, bits, fixed_session(world.rank(), 2));
          Lanes lanes(9, 2);
          const int64_t first = largest / 2;
          lanes[4] = static_cast<int32_t>(world.rank() == 0 ? first : largest + sign * beyond - first);
          try {
            sum.sum(0, 0, lanes);
            EXPECT_EQ(lanes[4], largest);
            EXPECT_EQ(lanes[3], 4);
            EXPECT_EQ(lanes[5], 4);
          } catch (const IntegrityError&) {
            ++refusals;
          }
        });
        EXPECT_EQ(refusals, beyond == 0 ? 0 : 2) << bits << " bits, sign " << sign;
      }
    }
}

TEST(SecureSum, AfterAVoidStepTheNextOneIsExact) {
  ThreadWorld world(3, [&](int, const std::string& operation, int number, ThreadWorld::Parts& parts) {
    if (operation == "sum32" && number == 0) parts[1][0] ^= std::byte(1);
  });
  world.run([&](Communicator& communicator) {
    SecureSum sum(communicator, 32, fixed_session(communicator.rank(), 3));
    Lanes lanes(10, 1);
    EXPECT_THROW(sum.sum(0, 0, lanes), IntegrityError);
    lanes.assign(10, 1);
    sum.sum(1, 0, lanes);
    EXPECT_EQ(lanes, Lanes(10, 3));
  });
}

}  // namespace
}  // namespace dpfa::comm::secagg
