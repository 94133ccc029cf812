#include "kernels/cuda/tensor_path.h"

#include <string>

#include "kernels/cuda/device.h"

namespace dpfa::kernels::cuda {

const char* to_string(TensorPath path) { return path == TensorPath::kWgmma ? "wgmma" : "mma.sync"; }

std::vector<TensorPath> device_paths() {
  if (compute_capability() == 90) return {TensorPath::kWgmma, TensorPath::kMmaSync};
  return {TensorPath::kMmaSync};
}

TensorPath choose_path(std::optional<TensorPath> asked, bool wgmma_can, const char* wgmma_wants) {
  const bool wgmma = device_paths().front() == TensorPath::kWgmma && wgmma_can;
  if (asked == TensorPath::kWgmma && !wgmma)
    throw Unsupported("the wgmma path runs on compute capability 9.0 alone, with " +
                      std::string(wgmma_wants) + ": leave the path open or ask for mma.sync");
  return asked.value_or(wgmma ? TensorPath::kWgmma : TensorPath::kMmaSync);
}

}  // namespace dpfa::kernels::cuda
