#include <ATen/Version.h>
#include <sodium.h>
#include <torch/version.h>

#include "comm/communicator.h"
#include "src/cli/build_facts.h"
#include "src/cli/facts.h"

namespace dpfa::cli {

nlohmann::ordered_json library_facts() {
  return {{"libsodium", sodium_version_string()},
          {"libtorch", std::string(TORCH_VERSION) + ", CPU kernels for " + at::get_cpu_capability()},
          {"mpi", mpi_version()},
          {"nccl", kNccl},
          {"cuda", "not in this build"}};
}

std::optional<int> announced_ranks() { return comm::announced_world_size(); }

}  // namespace dpfa::cli
