#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "src/base/error.h"
#include "tests/support/scoped_environment.h"

namespace dpfa::comm {
namespace {

TEST(WithoutMpi, OneRankIsTheSelfCommunicator) {
  EXPECT_EQ(make_mpi_communicator(std::nullopt)->backend(), "self");
  EXPECT_EQ(make_mpi_communicator(1)->backend(), "self");
}

TEST(WithoutMpi, MoreThanOneRankIsUnsupported) {
  EXPECT_THROW(make_mpi_communicator(2), Unsupported);
  dpfa::testing::ScopedEnvironment environment;
  environment.set("OMPI_COMM_WORLD_SIZE", "2");
  EXPECT_THROW(make_mpi_communicator(std::nullopt), Unsupported);
}

}  // namespace
}  // namespace dpfa::comm
