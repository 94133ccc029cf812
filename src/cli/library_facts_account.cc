#include <sodium.h>

#include "src/cli/facts.h"

namespace dpfa::cli {

nlohmann::ordered_json library_facts() {
  const char absent[] = "not in this build";
  return {{"libsodium", sodium_version_string()},
          {"libtorch", absent},
          {"mpi", absent},
          {"nccl", absent},
          {"cuda", absent}};
}

std::optional<int> announced_ranks() { return std::nullopt; }

}  // namespace dpfa::cli
