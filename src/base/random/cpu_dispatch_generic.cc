// Processors without a vector backend of their own.
#include "src/base/check.h"
#include "src/base/random/cpu_dispatch.h"

namespace dpfa {

std::vector<CpuPath> available_cpu_paths() { return {CpuPath::kPortable}; }

CpuPath active_cpu_path() { return CpuPath::kPortable; }

void set_cpu_path(CpuPath path) {
  DPFA_CHECK(path == CpuPath::kPortable, "this processor cannot run the ", to_string(path), " path");
}

const random_internal::Backend& random_internal::active_backend() { return kPortableBackend; }

}  // namespace dpfa
