// The three ways of norm_method.h by name; no LibTorch.
#pragma once

#include <cstdint>

namespace dpfa::kernels {

enum class NormMethod : uint8_t { kGram, kDirect, kMaterialise };
inline constexpr int kNormMethods = 3;

}  // namespace dpfa::kernels
