#include "src/cli/facts.h"

namespace dpfa::cli {

std::string mpi_version() { return "not in this build"; }

}  // namespace dpfa::cli
