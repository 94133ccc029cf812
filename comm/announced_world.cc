#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "comm/communicator.h"
#include "src/base/error.h"

namespace dpfa::comm {
namespace {

std::optional<int> number(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || value < 0)
    throw ConfigError(std::string("the environment variable ") + variable + " is '" + text +
                      "', not a number of ranks: unset it, or start through mpirun, srun or dpfa launch");
  return value;
}

}  // namespace

std::optional<int> announced_world_size() {
  if (const auto size = number("OMPI_COMM_WORLD_SIZE")) return size;
  if (const auto size = number("PMI_SIZE")) return size;  // MPICH, Intel MPI
  // srun: only inside a job step. The batch script itself carries SLURM_NTASKS of the whole job, and so does
  // everything below an mpirun that it starts, which the variables above have answered.
  if (std::getenv("SLURM_STEP_ID") != nullptr) {
    if (const auto size = number("SLURM_STEP_NUM_TASKS")) return size;
    if (const auto size = number("SLURM_NTASKS")) return size;
  }
  // torchrun; WORLD_SIZE alone is too common a name to mean anything.
  if (std::getenv("RANK") != nullptr) {
    if (const auto size = number("WORLD_SIZE")) return size;
  }
  // PMIx gives a rank and no size: the world has at least this rank.
  if (const auto rank = number("PMIX_RANK")) return *rank + 1;
  return std::nullopt;
}

void expect_world_size(const Communicator& communicator, int expected) {
  if (communicator.size() != expected)
    throw ConfigError("the run expects " + std::to_string(expected) + " ranks and MPI started " +
                      std::to_string(communicator.size()) + ": start it with mpirun -np " +
                      std::to_string(expected));
}

}  // namespace dpfa::comm
