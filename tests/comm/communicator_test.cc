#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include "comm/mpi_communicator.h"
#include "src/base/error.h"
#include "tests/support/mpi_world.h"

// What the communicators of this program call, by MPI's profiling interface.
static int all_reduces = 0, reduce_scatters = 0;

extern "C" int MPI_Allreduce(const void* mine, void* sum, int count, MPI_Datatype type, MPI_Op operation,
                             MPI_Comm comm) {
  ++all_reduces;
  return PMPI_Allreduce(mine, sum, count, type, operation, comm);
}

extern "C" int MPI_Reduce_scatter(const void* mine, void* slice, const int counts[], MPI_Datatype type,
                                  MPI_Op operation, MPI_Comm comm) {
  ++reduce_scatters;
  return PMPI_Reduce_scatter(mine, slice, counts, type, operation, comm);
}

namespace dpfa::comm {
namespace {

using dpfa::testing::world;

// The whole limit, and limits that split the test's buffers into full and partial pieces.
const size_t kLimits[] = {INT_MAX, 1000, 7, 1};
const size_t kSizes[] = {0, 1, 6, 7, 8, 999, 1001, 4096 + 13};

size_t size_for(size_t limit, size_t size) { return limit == 1 ? size % 50 : size; }

template <typename Int>
void sums_are_exact() {
  for (const size_t limit : kLimits) {
    const auto comm = make_mpi_communicator_with_limit(std::nullopt, limit);
    const int64_t n = comm->size();
    for (const size_t wanted : kSizes) {
      const size_t size = size_for(limit, wanted);
      std::vector<Int> values(size), expected(size);
      for (size_t i = 0; i < size; ++i) {
        // Beyond the 24 and 53 bits in which floating-point sums would be exact.
        const Int base = static_cast<Int>(i + 1) + std::numeric_limits<Int>::max() / 64;
        const Int sign = i % 3 == 0 ? -1 : 1;
        values[i] = sign * (base + static_cast<Int>(comm->rank()));
        expected[i] = sign * (static_cast<Int>(n) * base + static_cast<Int>(n * (n - 1) / 2));
      }
      comm->all_reduce_sum(std::span<Int>(values));
      EXPECT_EQ(values, expected) << size << " elements, " << limit << " per call";
    }
  }
}

TEST(MpiCommunicator, SumsOfInt32AreExactForAnySizeAndSplit) { sums_are_exact<int32_t>(); }
TEST(MpiCommunicator, SumsOfInt64AreExactForAnySizeAndSplit) { sums_are_exact<int64_t>(); }

template <typename Word>
void words_wrap(WordSums word_sums) {
  for (const size_t limit : kLimits) {
    const auto comm = make_mpi_communicator_with_limit(std::nullopt, limit, word_sums);
    for (const size_t wanted : kSizes) {
      std::vector<Word> words(size_for(limit, wanted)), expected(words.size());
      for (size_t i = 0; i < words.size(); ++i) {
        const auto word = [&](int rank) {
          return static_cast<Word>((i + 1) * (static_cast<uint64_t>(rank) + 3) * 0x9e3779b97f4a7c15u);
        };
        words[i] = word(comm->rank());
        for (int rank = 0; rank < comm->size(); ++rank) expected[i] += word(rank);
      }
      comm->all_reduce_sum(std::span<Word>(words));
      EXPECT_EQ(words, expected) << words.size() << " words, " << limit << " per call";
    }
  }
}

TEST(MpiCommunicator, SumsOfWordsAreTakenModuloTheirRange) {
  for (const WordSums word_sums : {WordSums::kByAllReduce, WordSums::kByReduceScatter}) {
    words_wrap<uint32_t>(word_sums);
    words_wrap<uint64_t>(word_sums);
  }
}

TEST(MpiCommunicator, FormsSumsOfWordsByTheCollectiveThatWasAskedFor) {
  for (const bool scatters : {false, true}) {
    const auto comm = make_mpi_communicator_with_limit(
        std::nullopt, 7, scatters ? WordSums::kByReduceScatter : WordSums::kByAllReduce);
    std::vector<uint32_t> words(20);
    std::vector<uint64_t> wide_words(5);
    all_reduces = reduce_scatters = 0;
    comm->all_reduce_sum(std::span(words));
    comm->all_reduce_sum(std::span(wide_words));
    EXPECT_EQ(all_reduces, scatters ? 0 : 4);
    EXPECT_EQ(reduce_scatters, scatters ? 4 : 0);
  }
}

TEST(MpiCommunicator, SumsOfFloatsHaveTheSameBitsOnAllRanks) {
  for (const size_t limit : kLimits) {
    const auto comm = make_mpi_communicator_with_limit(std::nullopt, limit);
    std::vector<float> values(501);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = 0.1f * static_cast<float>(i + 1) / static_cast<float>(comm->rank() + 3);
    comm->all_reduce_sum(std::span<float>(values));
    for (size_t i = 0; i < values.size(); ++i) {
      double expected = 0;
      for (int rank = 0; rank < comm->size(); ++rank)
        expected += 0.1 * static_cast<double>(i + 1) / (rank + 3);
      ASSERT_NEAR(values[i], expected, 1e-6 * expected);
    }
    const auto bytes = std::as_bytes(std::span(values));
    const std::vector<std::byte> all = comm->all_gather(bytes);
    for (int rank = 0; rank < comm->size(); ++rank)
      EXPECT_EQ(std::memcmp(all.data() + bytes.size() * rank, bytes.data(), bytes.size()), 0) << rank;
  }
}

TEST(MpiCommunicator, MaximaAreTakenElementByElement) {
  for (const size_t limit : kLimits) {
    const auto comm = make_mpi_communicator_with_limit(std::nullopt, limit);
    std::vector<int64_t> values(23), expected(23);
    for (int64_t i = 0; i < 23; ++i) {
      values[i] = -1000 + (comm->rank() == i % comm->size() ? i : -i - 1);
      expected[i] = -1000 + i;
    }
    comm->all_reduce_max(values);
    EXPECT_EQ(values, expected);
  }
}

TEST(MpiCommunicator, BroadcastBringsTheBytesOfAnyRootToAllRanks) {
  for (const size_t limit : kLimits) {
    const auto comm = make_mpi_communicator_with_limit(std::nullopt, limit);
    for (int root = 0; root < comm->size(); ++root)
      for (const size_t size : {0, 1, 7, 50, 1001}) {
        std::vector<std::byte> bytes(size), expected(size);
        for (size_t i = 0; i < size; ++i) {
          expected[i] = static_cast<std::byte>(i * 31 + root);
          if (comm->rank() == root) bytes[i] = expected[i];
        }
        comm->broadcast(bytes, root);
        EXPECT_EQ(bytes, expected);
      }
  }
}

TEST(MpiCommunicator, GatherOrdersTheBytesByRank) {
  for (const size_t limit : kLimits) {
    const auto comm = make_mpi_communicator_with_limit(std::nullopt, limit);
    for (const size_t size : {0, 1, 7, 50, 1001}) {
      std::vector<std::byte> mine(size), expected;
      for (size_t i = 0; i < size; ++i) mine[i] = static_cast<std::byte>(i + 3 * comm->rank());
      for (int rank = 0; rank < comm->size(); ++rank)
        for (size_t i = 0; i < size; ++i) expected.push_back(static_cast<std::byte>(i + 3 * rank));
      EXPECT_EQ(comm->all_gather(mine), expected);
    }
  }
}

TEST(MpiCommunicator, RanksAreDistinctAndOneHostHoldsThemAll) {
  const int32_t mine[2] = {world().rank(), world().local_rank()};
  const std::vector<std::byte> all = world().all_gather(std::as_bytes(std::span(mine)));
  for (int rank = 0; rank < world().size(); ++rank) {
    int32_t theirs[2];
    std::memcpy(theirs, all.data() + sizeof(theirs) * rank, sizeof(theirs));
    EXPECT_EQ(theirs[0], rank);
    EXPECT_EQ(theirs[1], rank);
  }
  EXPECT_EQ(world().local_size(), world().size());
  EXPECT_EQ(world().backend(), "mpi");
}

TEST(MpiCommunicator, KnowsTheWorldThatTheLauncherAnnounces) {
  EXPECT_EQ(announced_world_size(), world().size());
}

TEST(MpiCommunicator, AWorldOfAnotherSizeThanExpectedIsAConfigurationError) {
  EXPECT_THROW(make_mpi_communicator(world().size() + 1), ConfigError);
  EXPECT_NO_THROW(make_mpi_communicator(world().size()));
}

TEST(MpiCommunicator, ARootOutsideTheWorldIsRefused) {
  std::vector<std::byte> bytes(1);
  EXPECT_THROW(world().broadcast(bytes, world().size()), InternalError);
  EXPECT_THROW(world().broadcast(bytes, -1), InternalError);
}

TEST(MpiCommunicator, BarrierLetsNoRankPassBeforeAllHaveCome) {
  // The steady clock is that of the host, so the ranks of one host may compare its times.
  const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  for (int late = 0; late < world().size(); ++late) {
    if (world().rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    int64_t arrival = now();
    world().barrier();
    const int64_t departure = now();
    world().all_reduce_max(std::span(&arrival, 1));
    EXPECT_GE(departure, arrival) << "rank " << late << " came last";
  }
}

}  // namespace
}  // namespace dpfa::comm
