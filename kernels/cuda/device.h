// The names of src/base/cuda/device.h as the kernels use them.
#pragma once

#include "src/base/cuda/device.h"

namespace dpfa::kernels::cuda {

using dpfa::cuda::allow_shared_memory;
using dpfa::cuda::check;
using dpfa::cuda::check_launch;
using dpfa::cuda::compute_capability;
using dpfa::cuda::device_count;
using dpfa::cuda::DeviceArray;

}  // namespace dpfa::kernels::cuda
