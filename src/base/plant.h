// Planted bugs: the privacy mistakes of published DP code, kept as switches that only tests can throw.
//
// `if (DPFA_PLANT("zero_times_nan")) ...` is `if (false)` in every library that the product links. The test
// suite builds the same sources once more with DPFA_PLANTS defined; there the environment variable DPFA_PLANT
// names the one bug that is alive, and tests/planted_bugs.cmake shows that its named test then fails. Code on
// a GPU cannot ask the environment: a build of it with DPFA_PLANT_ALIVE="name" has that bug alive, and
// launch/gpu-check shows that a named case of the GPU suite then fails.
#pragma once

#if defined(DPFA_PLANT_ALIVE)
#include "src/base/host_device.h"

namespace dpfa::internal {
DPFA_HOST_DEVICE constexpr bool same_text(const char* a, const char* b) {
  while (*a != 0 && *a == *b) ++a, ++b;
  return *a == *b;
}
}  // namespace dpfa::internal
#define DPFA_PLANT(name) (::dpfa::internal::same_text(name, DPFA_PLANT_ALIVE))
#elif defined(DPFA_PLANTS)
#include <cstdlib>
#include <string_view>

namespace dpfa::internal {
inline bool plant_is_alive(std::string_view name) {
  const char* alive = std::getenv("DPFA_PLANT");
  return alive != nullptr && name == alive;
}
}  // namespace dpfa::internal
#define DPFA_PLANT(name) (::dpfa::internal::plant_is_alive(name))
#else
#define DPFA_PLANT(name) (false)
#endif
