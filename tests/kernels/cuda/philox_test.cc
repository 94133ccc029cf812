// Philox against cuRAND's own function, which a device calls in kernels and a host can call here.
#include <cuda_runtime.h>
#define QUALIFIERS static inline
#include <curand_philox4x32_x.h>
#undef QUALIFIERS
#include <gtest/gtest.h>

#include <random>

#include "src/base/random/philox.h"

namespace dpfa {
namespace {

TEST(Philox, HasTheWordsOfCurand) {
  std::mt19937 random(1);
  for (int k = 0; k < 100000; ++k) {
    const std::array<uint32_t, 4> counter = {static_cast<uint32_t>(random()), static_cast<uint32_t>(random()),
                                             static_cast<uint32_t>(random()),
                                             static_cast<uint32_t>(random())};
    const std::array<uint32_t, 2> key = {static_cast<uint32_t>(random()), static_cast<uint32_t>(random())};
    const uint4 expected =
        curand_Philox4x32_10({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
    ASSERT_EQ(philox4x32(counter, key),
              (std::array<uint32_t, 4>{expected.x, expected.y, expected.z, expected.w}))
        << k;
  }
}

}  // namespace
}  // namespace dpfa
