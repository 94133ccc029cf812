// Host values as a tensor on a device.
#pragma once

#include <ATen/ATen.h>

#include <span>

namespace dpfa::device {

// A copy of `values`; they may go when the call returns.
template <typename T>
at::Tensor upload(std::span<const T> values, at::Device device) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
  const int64_t size = static_cast<int64_t>(values.size());
  return at::from_blob(const_cast<T*>(values.data()), {size}, options)
      .to(device, /*non_blocking=*/false, /*copy=*/true);
}

}  // namespace dpfa::device
