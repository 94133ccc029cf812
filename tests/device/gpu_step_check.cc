// `gpu_bench step --check`: steps of the GPU beside steps of the CPU.
#include <cstdio>

#include "kernels/cuda/example_kernels.h"
#include "kernels/cuda/gpu_bench.h"
#include "src/device/library_kernels.h"
#include "tests/device/host_kernels.h"
#include "tests/device/step_check.h"

namespace dpfa::kernels::cuda {
namespace {

using device::NormChoice;
using test::StepSide;

const at::Device kGpu(at::kCUDA, 0);

StepSide::Kernels own(at::ScalarType, std::span<const DecayRange> decay, int64_t parameters) {
  StepSide::Kernels kernels;
  kernels.push_back(make_example_kernels(decay, parameters, nullptr));
  return kernels;
}
StepSide::Kernels library(at::ScalarType compute, std::span<const DecayRange> decay, int64_t parameters) {
  StepSide::Kernels kernels = own(compute, decay, parameters);
  kernels.push_back(device::make_library_kernels(compute, kGpu, *kernels.front()));
  return kernels;
}
StepSide::Kernels loops(at::ScalarType compute, std::span<const DecayRange> decay, int64_t) {
  StepSide::Kernels kernels;
  kernels.push_back(test::make_host_kernels(device::element_of(compute), decay));
  return kernels;
}

}  // namespace

bool check_step() {
  device::use_repeatable_operations();
  const StepSide cpu = {"the CPU's loops", at::kCPU, loops};
  test::StepReport report;
  for (const bool tied : {true, false}) {
    const StepSide torch = {"LibTorch on the GPU", kGpu, library};
    for (const auto& [name, norms] : {std::pair{"Gram kernels", NormChoice::kGram},
                                      {"direct kernels", NormChoice::kDirect},
                                      {"materialising kernels", NormChoice::kMaterialise},
                                      {"measured kernels", NormChoice::kMeasured}})
      for (const bool recompute : {false, true}) {
        const StepSide tested = {std::string(name) + (recompute ? ", layers recomputed" : ""), kGpu, own,
                                 norms, recompute};
        test::compare_steps({at::kBFloat16, tied, tested, cpu, test::kBf16AcrossDevices}, report);
        test::compare_steps({at::kBFloat16, tied, tested, torch, test::kBf16OnOneDevice}, report);
      }
    for (const NormChoice norms : {NormChoice::kDirect, NormChoice::kMaterialise}) {
      StepSide tested = torch;
      tested.norms = norms;
      test::compare_steps({at::kFloat, tied, tested, cpu, test::kF32AcrossDevices}, report);
    }
  }
  for (const std::string& line : report.compared) std::printf("compared %s\n", line.c_str());
  for (const std::string& line : report.differences) std::printf("DIFFERS %s\n", line.c_str());
  std::printf("%zu comparisons, %zu differences\n", report.compared.size(), report.differences.size());
  return report.differences.empty();
}

}  // namespace dpfa::kernels::cuda
