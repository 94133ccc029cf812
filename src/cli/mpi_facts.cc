#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include "src/cli/facts.h"

namespace dpfa::cli {

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  // Allowed before MPI_Init.
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<size_t>(length));
  return version.substr(0, version.find('\n'));
}

}  // namespace dpfa::cli
