#include <cstdio>

#include "tests/ptx/runtime.h"

namespace dpfa::ptx {
namespace {

void print_stretches_that_did_not_run(const Kernel& kernel, const std::vector<uint64_t>& hits) {
  for (size_t i = 0; i < hits.size(); ++i) {
    if (hits[i] != 0) continue;
    const size_t begin = i;
    while (i + 1 < hits.size() && hits[i + 1] == 0) ++i;
    std::fprintf(stderr, "ptx unrun %s: lines %d to %d, %zu instructions\n", kernel.name.c_str(),
                 kernel.code[begin].line, kernel.code[i].line, i + 1 - begin);
  }
}

}  // namespace

void print_statistics() {
  for (const auto& modules : runtime().binaries) {
    const Module* module = module_for_device(modules);
    if (module == nullptr) continue;
    for (const auto& [name, kernel] : module->kernels) {
      const Statistics& s = runtime().statistics[name];
      size_t ran = 0;
      uint64_t executed = 0;
      for (const uint64_t hits : s.hits) ran += hits > 0, executed += hits;
      std::fprintf(
          stderr,
          "ptx kernel %s: launches %lld, blocks %lld, %zu of %zu instructions ran, %llu by warps, %.2f s\n",
          name.c_str(), static_cast<long long>(s.launches), static_cast<long long>(s.blocks), ran,
          kernel->code.size(), static_cast<unsigned long long>(executed), s.seconds);
      print_stretches_that_did_not_run(*kernel, s.hits);
    }
  }
}

}  // namespace dpfa::ptx
