#include <atomic>

#include "src/base/check.h"
#include "src/base/random/cpu_dispatch.h"

namespace dpfa {
namespace {

bool has(CpuPath path) {
  __builtin_cpu_init();
  switch (path) {
    case CpuPath::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
    case CpuPath::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuPath::kPortable:
      return true;
  }
  return false;
}

std::atomic<CpuPath>& active() {
  static std::atomic<CpuPath> path = available_cpu_paths().back();
  return path;
}

}  // namespace

std::vector<CpuPath> available_cpu_paths() {
  std::vector<CpuPath> paths;
  for (CpuPath path : {CpuPath::kPortable, CpuPath::kAvx2, CpuPath::kAvx512})
    if (has(path)) paths.push_back(path);
  return paths;
}

CpuPath active_cpu_path() { return active(); }

void set_cpu_path(CpuPath path) {
  DPFA_CHECK(has(path), "this processor cannot run the ", to_string(path), " path");
  active() = path;
}

const random_internal::Backend& random_internal::active_backend() {
  switch (active().load(std::memory_order_relaxed)) {
    case CpuPath::kAvx512:
      return kAvx512Backend;
    case CpuPath::kAvx2:
      return kAvx2Backend;
    case CpuPath::kPortable:
      break;
  }
  return kPortableBackend;
}

}  // namespace dpfa
