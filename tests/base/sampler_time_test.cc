// Time as a channel: what an observer of the processor's clock learns of the noise.
#include <gtest/gtest.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "src/base/random/discrete_gaussian.h"

namespace dpfa {
namespace {

constexpr uint64_t kSamples = 16;  // timed together

struct Group {
  uint64_t first;
  double size;  // sum of |sample|
  uint64_t least_cycles = std::numeric_limits<uint64_t>::max();
};

uint64_t cycles_of(const DiscreteGaussian& law, const StreamKey& key, uint64_t first) {
  std::array<int64_t, kSamples> out;
  _mm_lfence();
  const uint64_t start = __rdtsc();
  _mm_lfence();
  law.fill(key, 0, first, out);
  asm volatile("" : : "r"(out.data()) : "memory");
  unsigned processor;
  return __rdtscp(&processor) - start;
}

struct Moments {
  double mean = 0, variance_of_mean = 0;
};

Moments moments_of(const std::vector<Group>& groups) {
  const double n = static_cast<double>(groups.size());
  Moments m;
  for (const Group& group : groups) m.mean += static_cast<double>(group.least_cycles) / n;
  for (const Group& group : groups)
    m.variance_of_mean += std::pow(static_cast<double>(group.least_cycles) - m.mean, 2) / (n * (n - 1));
  return m;
}

// Of 2^15 groups of samples those with the least and those with the most noise: their means differ by a
// factor of about four. What else the machine does can only add cycles to a measurement, so each group counts
// with the least of many, made in turn with all others.
//
// Welch's t-test of two times 96 groups, against a difference of more than 1 % of the time. Where the time
// does not depend on the noise, both sets are drawn from one law, and |t| > 6 has a probability below 1e-7
// (at least 95 degrees of freedom).
TEST(DiscreteGaussian, TakesTheSameTimeForLittleAndForMuchNoise) {
  constexpr size_t kGroups = 96;
  constexpr int kRepeats = 400;
  const DiscreteGaussian law(0x1p20);
  const StreamKey key = RootKey::from_insecure_seed(1).stream(Purpose::kNoise);
  std::vector<Group> all(1 << 15);
  for (size_t g = 0; g < all.size(); ++g) {
    all[g].first = 64 * g;  // at one place in the blocks of the stream
    std::array<int64_t, kSamples> out;
    law.fill(key, 0, all[g].first, out);
    for (const int64_t x : out) all[g].size += static_cast<double>(std::abs(x));
  }
  std::sort(all.begin(), all.end(), [](const Group& a, const Group& b) { return a.size < b.size; });
  std::vector<Group> little(all.begin(), all.begin() + kGroups), much(all.end() - kGroups, all.end());
  EXPECT_GT(much.front().size, 2.5 * little.back().size);

  for (int repeat = 0; repeat < kRepeats; ++repeat)
    for (size_t g = 0; g < kGroups; ++g)
      for (Group* group : {&little[g], &much[kGroups - 1 - g]})
        group->least_cycles = std::min(group->least_cycles, cycles_of(law, key, group->first));

  const Moments a = moments_of(little), b = moments_of(much);
  const double excess = std::max(0.0, std::abs(a.mean - b.mean) - 0.01 * a.mean);
  EXPECT_LE(excess, 6 * std::sqrt(a.variance_of_mean + b.variance_of_mean))
      << a.mean << " cycles for little noise, " << b.mean << " for much";
  std::printf("%.1f cycles for little noise, %.1f for much, standard errors %.2f and %.2f\n", a.mean, b.mean,
              std::sqrt(a.variance_of_mean), std::sqrt(b.variance_of_mean));
}

}  // namespace
}  // namespace dpfa
