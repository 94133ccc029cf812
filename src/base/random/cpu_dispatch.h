// Which instruction set the generators use: the widest that the processor has, chosen at the first use.
#pragma once

#include <string_view>
#include <vector>

#include "src/base/random/backend.h"

namespace dpfa {

enum class CpuPath { kPortable, kAvx2, kAvx512 };

constexpr std::string_view to_string(CpuPath path) {
  return path == CpuPath::kAvx512 ? "avx512" : path == CpuPath::kAvx2 ? "avx2" : "portable";
}

// The paths that this processor can run, narrowest first; kPortable always.
std::vector<CpuPath> available_cpu_paths();
CpuPath active_cpu_path();
// For tests and measurements; all paths give the same bits. Throws InternalError for a path that is not
// available.
void set_cpu_path(CpuPath path);

namespace random_internal {
const Backend& active_backend();
}

}  // namespace dpfa
