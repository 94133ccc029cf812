// Which tensor-core instructions a kernel uses.
#pragma once

namespace dpfa::kernels::cuda {

enum class TensorPath {
  kMmaSync,  // sm_80 and later
  kWgmma,    // TMA and wgmma: sm_90a only
};

}  // namespace dpfa::kernels::cuda
