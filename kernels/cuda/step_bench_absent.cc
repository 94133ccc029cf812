#include "kernels/cuda/gpu_bench.h"

namespace dpfa::kernels::cuda {

constexpr const char* kAbsent =
    "this gpu_bench was built without LibTorch, which runs the forward and backward pass: configure with "
    "-DDPFA_GPU_STEP=ON and DPFA_TORCH_ROOT set to the folder of torch 2.11 (launch/gpu-check does)";

std::vector<Timing> bench_step(const BenchShape&) { throw Unsupported(kAbsent); }
bool check_step() { throw Unsupported(kAbsent); }

}  // namespace dpfa::kernels::cuda
