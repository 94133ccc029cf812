// What a build without MPI can do: one rank.
#include "comm/communicator.h"
#include "src/base/error.h"

namespace dpfa::comm {

std::unique_ptr<Communicator> make_mpi_communicator(std::optional<int> expected_world_size, WordSums) {
  const int announced = announced_world_size().value_or(1);
  const int expected = expected_world_size.value_or(1);
  if (announced > 1 || expected > 1)
    throw Unsupported("this dpfa was built without MPI and can run one rank only, but " +
                      std::to_string(announced > 1 ? announced : expected) +
                      " ranks are wanted: build with -DDPFA_MPI=ON, or start one process without a launcher");
  return make_self_communicator();
}

}  // namespace dpfa::comm
