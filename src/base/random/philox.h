// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, SC 2011): makes no cryptographic claim.
#pragma once

#include <array>
#include <cstdint>

namespace dpfa {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace dpfa
