// What tests under mpirun share: tests/support/mpi_main.cc starts MPI once and runs all tests on every rank.
#pragma once

#include "comm/communicator.h"

namespace dpfa::testing {

// All ranks of the test. Every rank runs the same tests in the same order, so a test may call collectives;
// after a failed ASSERT on one rank the others may wait for it, and the watchdog of mpi_main.cc then ends the
// program.
comm::Communicator& world();

}  // namespace dpfa::testing
