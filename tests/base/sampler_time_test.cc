// Time as a channel: what an observer of the processor's clock learns of the noise.
#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "src/base/random/discrete_gaussian.h"

namespace dpfa {
namespace {

constexpr uint64_t kSamples = 16;  // timed together

struct Group {
  uint64_t first;
  double size;  // sum of |sample|
};

// Addresses of the instructions that a piece of code executes, one after the other: their number and a hash.
struct Path {
  uint64_t instructions = 0, hash = 0;
  bool operator==(const Path&) const = default;
};
Path path;

void note_instruction(int, siginfo_t*, void* context) {
  ++path.instructions;
  path.hash =
      0x100000001b3u *
      (path.hash ^ static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]));
}

// The processor traps after every instruction while its trap flag is set. The stack below rsp may be in use.
[[gnu::noinline]] void set_trap_flag() {
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                   : "memory", "cc");
}
[[gnu::noinline]] void clear_trap_flag() {
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                   : "memory", "cc");
}

Path path_of(const DiscreteGaussian& law, const StreamKey& key, uint64_t first) {
  std::array<int64_t, kSamples> out;
  path = {};
  set_trap_flag();
  law.fill(key, 0, first, out);
  clear_trap_flag();
  return path;
}

double cycles_of(const DiscreteGaussian& law, const StreamKey& key, uint64_t first) {
  std::array<int64_t, kSamples> out;
  _mm_lfence();
  const uint64_t start = __rdtsc();
  _mm_lfence();
  law.fill(key, 0, first, out);
  asm volatile("" : : "r"(out.data()) : "memory");
  unsigned processor;
  return static_cast<double>(__rdtscp(&processor) - start);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Not a matter of statistics: which instructions are executed, and in which order, does not depend on what is
// drawn, for shares of one and of two levels.
TEST(DiscreteGaussian, ExecutesTheSameInstructionsWhateverItDraws) {
  struct sigaction action = {}, before = {};
  action.sa_sigaction = note_instruction;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGTRAP, &action, &before), 0);
  const StreamKey key = RootKey::from_insecure_seed(2).stream(Purpose::kNoise);
  for (const double stddev : {100.0, 0x1p20}) {
    const DiscreteGaussian law(stddev);
    path_of(law, key, 0);  // binds the functions of shared libraries
    const Path first = path_of(law, key, 1024);
    EXPECT_GT(first.instructions, 500u) << "the trap flag shows every instruction";
    for (uint64_t group = 2; group < 12; ++group)  // at one place in the blocks of the stream
      ASSERT_EQ(path_of(law, key, 1024 * group), first)
          << "group " << group << " of deviation " << stddev << ": " << path.instructions
          << " instructions, not " << first.instructions;
  }
  sigaction(SIGTRAP, &before, nullptr);
}

// Of 2^15 groups of samples those with the least and those with the most noise: their means differ by a
// factor of about four. Each of the one kind is timed beside one of the other, in alternating order, so that
// what else the machine does meanwhile adds to both; a pair counts with the median of its differences.
//
// Student's t-test of the 96 pairs against a difference of more than 1 % of the time. Where the time does not
// depend on the noise, differences are drawn from a law that is symmetric around 0, and |t| > 6 has a
// probability below 1e-7 (95 degrees of freedom).
TEST(DiscreteGaussian, TakesTheSameTimeForLittleAndForMuchNoise) {
  constexpr size_t kGroups = 96;
  constexpr int kRepeats = 400;
  const DiscreteGaussian law(0x1p20);
  const StreamKey key = RootKey::from_insecure_seed(1).stream(Purpose::kNoise);
  std::vector<Group> all(1 << 15);
  for (size_t g = 0; g < all.size(); ++g) {
    all[g].first = 1024 * g;  // at one place in the blocks of the stream
    std::array<int64_t, kSamples> out;
    law.fill(key, 0, all[g].first, out);
    for (const int64_t x : out) all[g].size += static_cast<double>(std::abs(x));
  }
  std::sort(all.begin(), all.end(), [](const Group& a, const Group& b) { return a.size < b.size; });
  std::vector<Group> little(all.begin(), all.begin() + kGroups), much(all.end() - kGroups, all.end());
  EXPECT_GT(much.front().size, 2.5 * little.back().size);

  std::vector<std::vector<double>> differences(kGroups);
  std::vector<double> times;
  for (int repeat = 0; repeat < kRepeats; ++repeat)
    for (size_t g = 0; g < kGroups; ++g) {
      const bool little_first = (static_cast<size_t>(repeat) + g) % 2 == 0;
      const double before = cycles_of(law, key, (little_first ? little : much)[g].first);
      const double after = cycles_of(law, key, (little_first ? much : little)[g].first);
      differences[g].push_back(little_first ? after - before : before - after);
      times.push_back(little_first ? before : after);
    }

  double mean = 0, variance_of_mean = 0;
  std::vector<double> of_pairs;
  for (const auto& of_pair : differences) of_pairs.push_back(median(of_pair));
  for (const double d : of_pairs) mean += d / kGroups;
  for (const double d : of_pairs) variance_of_mean += (d - mean) * (d - mean) / (kGroups * (kGroups - 1.0));
  const double time = median(times), excess = std::max(0.0, std::abs(mean) - 0.01 * time);
  EXPECT_LE(excess, 6 * std::sqrt(variance_of_mean)) << mean << " cycles more for much noise, of " << time;
  std::printf("%.1f cycles for little noise, %.1f more for much, standard error %.2f\n", time, mean,
              std::sqrt(variance_of_mean));
}

}  // namespace
}  // namespace dpfa
