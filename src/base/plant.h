// Planted bugs: the privacy mistakes of published DP code, kept as switches that only tests can throw.
//
// `if (DPFA_PLANT("zero_times_nan")) ...` is `if (false)` in every library that the product links. The test
// suite builds the same sources once more with DPFA_PLANTS defined; there the environment variable DPFA_PLANT
// names the one bug that is alive, and tests/planted_bugs.cmake shows that its named test then fails.
#pragma once

#ifdef DPFA_PLANTS
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
