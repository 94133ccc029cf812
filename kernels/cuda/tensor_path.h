// Which tensor-core instructions a kernel uses, and the choice between them: one for all kernels.
#pragma once

#include <optional>
#include <vector>

namespace dpfa::kernels::cuda {

enum class TensorPath {
  kMmaSync,  // sm_80 and later
  kWgmma,    // TMA and wgmma: sm_90a only
};

const char* to_string(TensorPath path);  // "mma.sync", "wgmma"

// Those that the current device has, in the order in which they are preferred. Throws as
// compute_capability().
std::vector<TensorPath> device_paths();

// `asked`; where no path is asked for, the device's preferred one, but kMmaSync where not `wgmma_can`:
// whether the wgmma kernel takes the matrices of a plan. That must not depend on the examples: the paths need
// not round alike, and an example's bits are its own. Throws Unsupported for a path that was asked for and
// that the device lacks or the matrices rule out; `wgmma_wants` says what the kernel wants of them.
TensorPath choose_path(std::optional<TensorPath> asked, bool wgmma_can, const char* wgmma_wants);

}  // namespace dpfa::kernels::cuda
