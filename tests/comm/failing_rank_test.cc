// Fails on rank 1 alone, on purpose: job_end_test.cc shows that the whole program then fails and says where.
#include <gtest/gtest.h>

#include "tests/support/mpi_world.h"

namespace {

TEST(FailingRank, FailsOnRankOne) { EXPECT_NE(dpfa::testing::world().rank(), 1); }

}  // namespace
