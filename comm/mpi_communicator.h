// What tests of the MPI communicator need beyond communicator.h.
#pragma once

#include <climits>
#include <cstddef>
#include <memory>
#include <optional>

#include "comm/communicator.h"

namespace dpfa::comm {

// make_mpi_communicator() with a limit on the elements of one MPI call (1 to INT_MAX), so that the splitting
// of large buffers can be tested with small ones. Several communicators may live at once: MPI ends with the
// last.
std::unique_ptr<Communicator> make_mpi_communicator_with_limit(std::optional<int> expected_world_size,
                                                               size_t elements_per_call,
                                                               WordSums word_sums = WordSums::kByAllReduce);

}  // namespace dpfa::comm
