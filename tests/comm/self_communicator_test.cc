#include <gtest/gtest.h>

#include <cstring>

#include "comm/communicator.h"
#include "src/base/error.h"
#include "tests/support/scoped_environment.h"

namespace dpfa::comm {
namespace {

TEST(SelfCommunicator, IsAWorldOfOneInWhichEveryOperationKeepsItsValues) {
  const auto self = make_self_communicator();
  EXPECT_EQ(self->rank(), 0);
  EXPECT_EQ(self->size(), 1);
  EXPECT_EQ(self->local_rank(), 0);
  EXPECT_EQ(self->local_size(), 1);
  EXPECT_EQ(self->backend(), "self");
  std::vector<int32_t> narrow = {1, -2, 3};
  std::vector<int64_t> wide = {int64_t{1} << 40, -7};
  self->all_reduce_sum(std::span<int32_t>(narrow));
  self->all_reduce_sum(std::span<int64_t>(wide));
  self->all_reduce_max(wide);
  std::vector<uint32_t> words = {~0u, 3};
  std::vector<uint64_t> wide_words = {~uint64_t{0}};
  self->all_reduce_sum(std::span<uint32_t>(words));
  self->all_reduce_sum(std::span<uint64_t>(wide_words));
  EXPECT_EQ(words, (std::vector<uint32_t>{~0u, 3}));
  EXPECT_EQ(wide_words, (std::vector<uint64_t>{~uint64_t{0}}));
  std::vector<float> floats = {0.1f};
  self->all_reduce_sum(std::span<float>(floats));
  EXPECT_EQ(floats[0], 0.1f);
  self->broadcast(std::as_writable_bytes(std::span(narrow)), 0);
  self->barrier();
  EXPECT_EQ(narrow, (std::vector<int32_t>{1, -2, 3}));
  EXPECT_EQ(wide, (std::vector<int64_t>{int64_t{1} << 40, -7}));
  const std::vector<std::byte> all = self->all_gather(std::as_bytes(std::span(narrow)));
  ASSERT_EQ(all.size(), 12u);
  EXPECT_EQ(std::memcmp(all.data(), narrow.data(), 12), 0);
}

TEST(SelfCommunicator, HasNoOtherRoot) {
  std::vector<std::byte> bytes(3);
  EXPECT_THROW(make_self_communicator()->broadcast(bytes, 1), InternalError);
}

TEST(SelfCommunicatorDeathTest, AbortEndsTheProcessWithItsCode) {
  EXPECT_EXIT(make_self_communicator()->abort(4), ::testing::ExitedWithCode(4), "");
}

class AnnouncedWorld : public ::testing::Test {
 protected:
  AnnouncedWorld() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_ID",
                             "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "RANK", "WORLD_SIZE"})
      environment_.set(name, std::nullopt);
  }
  void set(const char* name, const char* value) { environment_.set(name, value); }

 private:
  dpfa::testing::ScopedEnvironment environment_;
};

TEST_F(AnnouncedWorld, IsEmptyWhereNoLauncherSpeaks) { EXPECT_EQ(announced_world_size(), std::nullopt); }

TEST_F(AnnouncedWorld, IsReadFromOpenMpi) {
  set("OMPI_COMM_WORLD_SIZE", "4");
  EXPECT_EQ(announced_world_size(), 4);
}

TEST_F(AnnouncedWorld, IsReadFromASlurmStep) {
  set("SLURM_STEP_ID", "0");
  set("SLURM_NTASKS", "8");
  EXPECT_EQ(announced_world_size(), 8);
  set("SLURM_STEP_NUM_TASKS", "2");
  EXPECT_EQ(announced_world_size(), 2);
}

TEST_F(AnnouncedWorld, IsNotReadFromTheBatchScriptAroundAPlainStart) {
  set("SLURM_NTASKS", "8");
  EXPECT_EQ(announced_world_size(), std::nullopt);
}

TEST_F(AnnouncedWorld, OfMpirunInsideABatchScriptIsThatOfMpirun) {
  // A remote node of sbatch + mpirun sees a step of one task.
  set("OMPI_COMM_WORLD_SIZE", "4");
  set("SLURM_STEP_ID", "0");
  set("SLURM_NTASKS", "1");
  EXPECT_EQ(announced_world_size(), 4);
}

TEST_F(AnnouncedWorld, IsReadFromTorchrunOnlyBesideARank) {
  set("WORLD_SIZE", "4");
  EXPECT_EQ(announced_world_size(), std::nullopt);
  set("RANK", "0");
  EXPECT_EQ(announced_world_size(), 4);
}

TEST_F(AnnouncedWorld, IsAtLeastThePmixRankAndOne) {
  set("PMIX_RANK", "3");
  EXPECT_EQ(announced_world_size(), 4);
}

TEST_F(AnnouncedWorld, ThatIsNoNumberIsAConfigurationError) {
  for (const char* text : {"four", "4x", "-1", "99999999999"}) {
    set("OMPI_COMM_WORLD_SIZE", text);
    EXPECT_THROW(announced_world_size(), ConfigError) << text;
  }
}

}  // namespace
}  // namespace dpfa::comm
