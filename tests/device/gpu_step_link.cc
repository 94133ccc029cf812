// Stands for gpu_bench where no CUDA compiler is, so that what it takes of this build is linked there.
#include "kernels/cuda/example_kernels.h"
#include "kernels/cuda/gpu_bench.h"

namespace dpfa::kernels::cuda {

std::unique_ptr<ExampleKernels> make_example_kernels(std::span<const DecayRange>, int64_t, cudaStream_t) {
  throw Unsupported("gpu_step_link has no kernels: build gpu_bench with launch/gpu-check");
}

}  // namespace dpfa::kernels::cuda

int main() {
  dpfa::kernels::cuda::bench_step({});
  return dpfa::kernels::cuda::check_step() ? 0 : 1;
}
