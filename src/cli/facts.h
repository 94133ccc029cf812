// What this program was built with and what it finds on this machine, for `dpfa doctor` and `dpfa --version`.
// Facts that need LibTorch or MPI come from files that only the training build compiles.
#pragma once

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace dpfa::cli {

// Name -> version text of each library; "not in this build" where there is none.
nlohmann::ordered_json library_facts();

// Version text of the MPI library, as the library itself says it. MPI is not started.
std::string mpi_version();

// Number of ranks that the launcher's environment announces; empty where nothing does or where the build has
// no ranks at all.
std::optional<int> announced_ranks();

// Processor, instruction set, cores, memory, /dev/shm and disk space; sizes in MiB.
nlohmann::ordered_json host_facts();

// Cores that this process may use: its affinity, and the CPU limit of its control group.
double usable_cores();

}  // namespace dpfa::cli
