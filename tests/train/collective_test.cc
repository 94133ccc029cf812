// Errors that all ranks see together, and the keys that each process start makes. Runs under mpirun.
#include "src/train/collective.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <set>
#include <vector>

#include "src/train/run_keys.h"
#include "tests/support/mpi_world.h"

namespace dpfa::train {
namespace {

using testing::world;

struct Failure {
  int code;
  std::string text;
};

Failure failure_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const AgreedError& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {0, ""};
}

TEST(OnEveryRank, AnErrorOfTheLastRankReachesAllWithItsCodeAndRank) {
  const int last = world().size() - 1;
  const Failure failure = failure_of([&] {
    on_every_rank(world(), [&] {
      if (world().rank() == last) throw IoError("the file is missing on this host");
    });
  });
  EXPECT_EQ(failure.code, 7);
  const std::string where = last == 0 ? "" : "rank " + std::to_string(last) + ": ";
  EXPECT_EQ(failure.text, where + "the file is missing on this host");
}

TEST(OnEveryRank, AnErrorOfAllRanksIsThatOfRankZero) {
  const Failure failure = failure_of([&] {
    on_every_rank(world(), [&] { throw ConfigError("said by " + std::to_string(world().rank())); });
  });
  EXPECT_EQ(failure.code, 2);
  EXPECT_EQ(failure.text, "said by 0");
}

TEST(OnEveryRank, AnUnknownExceptionIsAnInternalErrorAndALongTextIsCutNotLost) {
  const Failure failure = failure_of(
      [&] { on_every_rank(world(), [] { throw std::runtime_error("defect " + std::string(5000, 'x')); }); });
  EXPECT_EQ(failure.code, 70);
  EXPECT_EQ(failure.text.substr(0, 10), "defect xxx");
}

TEST(OnEveryRank, LeavesTheRanksInStepForTheNextCollective) {
  for (int round = 0; round < 5; ++round) {
    const bool fails = round % 2 == 0;
    const Failure failure = failure_of([&] {
      on_rank_0(world(), [&] {
        if (world().rank() != 0) ADD_FAILURE() << "ran on rank " << world().rank();
        if (fails) throw StateError("round");
      });
    });
    EXPECT_EQ(failure.code, fails ? 5 : 0);
    int64_t sum = 1;
    world().all_reduce_sum(std::span(&sum, 1));
    EXPECT_EQ(sum, world().size());
  }
}

TEST(StateAgreed, PassesOtherErrorsOnUnchanged) {
  EXPECT_EQ(failure_of([] { state_agreed([] { throw StateError("all of us"); }); }).code, 5);
  EXPECT_THROW(state_agreed([] { throw IoError("only me"); }), IoError);
}

TEST(BroadcastText, GivesAllRanksTheTextOfRankZeroOfAnyLength) {
  for (const size_t length : {size_t{0}, size_t{1}, size_t{70'000}}) {
    const std::string mine = world().rank() == 0 ? std::string(length, 'a') : "something else";
    EXPECT_EQ(broadcast_text(world(), mine), std::string(length, 'a'));
  }
}

using Words = std::array<uint32_t, 8>;

// The key words of all ranks.
std::vector<Words> of_all_ranks(const StreamKey& key) {
  const Words mine = key.words();
  const auto bytes = world().all_gather(std::as_bytes(std::span(mine)));
  std::vector<Words> all(world().size());
  std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}

size_t different(const StreamKey& key) {
  const auto all = of_all_ranks(key);
  return std::set<Words>(all.begin(), all.end()).size();
}

TEST(RunKeys, NoiseAndInitialisationAreSharedAndSamplingAndDropoutAreOfEachRankAlone) {
  const RunKeys keys = make_run_keys(world(), std::nullopt);
  const size_t ranks = world().size();
  EXPECT_EQ(different(keys.noise), 1u);
  EXPECT_EQ(different(keys.init), 1u);
  EXPECT_EQ(different(keys.sampling), ranks);
  EXPECT_EQ(different(keys.dropout), ranks);
}

// noise = shares: beside the public initialisation no process holds a key of another one, nor of all.
TEST(RunKeys, OfNoiseSharesAreOfEachRankAloneButTheInitialisation) {
  const RunKeys keys = make_run_keys(world(), std::nullopt, /*noise_shares=*/true);
  const size_t ranks = world().size();
  EXPECT_EQ(different(keys.init), 1u);
  std::set<Words> secret;
  for (const auto member : {&RunKeys::noise, &RunKeys::dither, &RunKeys::sampling, &RunKeys::dropout})
    for (const Words& words : of_all_ranks(keys.*member)) secret.insert(words);
  EXPECT_EQ(secret.size(), 4 * ranks);
}

TEST(RunKeys, AreFreshAtEachStart) {
  const RunKeys first = make_run_keys(world(), std::nullopt), second = make_run_keys(world(), std::nullopt);
  EXPECT_NE(first.noise.words(), second.noise.words());
  EXPECT_NE(first.init.words(), second.init.words());
  EXPECT_NE(first.sampling.words(), second.sampling.words());
  EXPECT_NE(first.dropout.words(), second.dropout.words());
}

TEST(RunKeys, OfAnInsecureSeedAreTheSameOnAllRanksAndDifferByPurposeAndSeed) {
  const RunKeys keys = make_run_keys(world(), 7), again = make_run_keys(world(), 7),
                other = make_run_keys(world(), 8);
  for (const auto member : {&RunKeys::noise, &RunKeys::init, &RunKeys::sampling, &RunKeys::dropout}) {
    EXPECT_EQ(different(keys.*member), 1u);
    EXPECT_EQ((keys.*member).words(), (again.*member).words());
    EXPECT_NE((keys.*member).words(), (other.*member).words());
  }
  EXPECT_EQ(
      (std::set<Words>{keys.noise.words(), keys.init.words(), keys.sampling.words(), keys.dropout.words()}
           .size()),
      4u);
}

}  // namespace
}  // namespace dpfa::train
