// Calls f.template operator()<T>() with the C++ type of a compute dtype: float, BFloat16 or double.
#pragma once

#include <ATen/ATen.h>

#include "src/base/error.h"

namespace dpfa::kernels {

template <typename F>
decltype(auto) with_compute_type(at::ScalarType dtype, F&& f) {
  switch (dtype) {
    case at::kFloat:
      return f.template operator()<float>();
    case at::kBFloat16:
      return f.template operator()<c10::BFloat16>();
    case at::kDouble:
      return f.template operator()<double>();
    default:
      throw InternalError(std::string("no compute path for dtype ") + c10::toString(dtype));
  }
}

}  // namespace dpfa::kernels
