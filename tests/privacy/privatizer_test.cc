// The release: what it adds, what it divides by, what it charges, and in which order.
#include "src/privacy/privatizer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <optional>

#include "src/base/error.h"
#include "tests/support/clipped_sum_access.h"
#include "tests/support/engine_oracle.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/statistics.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::privacy {
namespace {

using accounting::Ledger;
using test::ClippedSumAccess;
using test::PlanChoice;

constexpr int64_t kParameters = 200000;

nlohmann::json open_fields(const plan::PrivacyPlan& plan) {
  return {{"plan", plan.to_json()},
          {"plan_digest", plan.digest()},
          {"private", true},
          {"stamps", nlohmann::json::array()}};
}

// A privatizer with all that it refers to.
struct Release {
  plan::PrivacyPlan plan;
  test::RecordingCommunicator communicator;
  Ledger ledger;
  Privatizer privatizer;

  explicit Release(const PlanChoice& choice, int64_t parameters = kParameters,
                   std::optional<Ledger> given = {})
      : plan(test::make_plan(choice, parameters)),
        ledger(given ? std::move(*given) : Ledger::in_memory(open_fields(plan))),
        privatizer(plan, communicator, ledger, StreamKey({11, 12, 13, 14, 15, 16, 17, 18})) {}

  std::vector<float> of(std::span<const int32_t> sum, int64_t contributions = 1) {
    const int64_t draw = privatizer.next_draw();
    const NoisyGradient gradient =
        privatizer.release(ClippedSumAccess::make(sum, contributions), /*step=*/draw, draw);
    return gradient.values();
  }
};

// |z| > kZ7 for the sum of squares of 200000 normals: false alarm 1e-7 per case, six cases. A standard
// deviation that is off by 0.9 % is found.
TEST(Privatizer, NoiseStddevIsSigmaTimesSensitivityOverTheDivisor) {
  for (const double clip : {0.1, 1.0, 10.0})
    for (const double divisor : {1.0, 3.0}) {
      Release release({.max_grad_norm = clip, .noise_multiplier = 0.7, .expected_batch_size = divisor});
      const std::vector<float> noise = release.of(std::vector<int32_t>(kParameters));
      const double stddev = 0.7 * clip * (1 + release.plan.slack()) / divisor;
      double squares = 0;
      for (float v : noise) squares += static_cast<double>(v) / stddev * (static_cast<double>(v) / stddev);
      const double z = (squares - kParameters) / std::sqrt(2.0 * kParameters);
      EXPECT_LE(std::abs(z), testing::kZ7) << "C = " << clip << ", divisor " << divisor;
    }
}

// 1e-6 x C is 4 to 8 grid units of noise: with 10.3 standard deviations as the bound no key fails in practice
// (200000 values, P(|Z| > 10.3) < 1e-24).
TEST(Privatizer, ReleaseIsTheSumOverTheExpectedBatchSize) {
  for (const double divisor : {0.5, 8.0, 1000.0}) {
    Release release({.max_grad_norm = 10, .noise_multiplier = 1e-6, .expected_batch_size = divisor});
    std::vector<int32_t> sum(kParameters);
    for (int64_t i = 0; i < kParameters; ++i) sum[i] = static_cast<int32_t>((i * 7919) % 16000000 - 8000000);
    const std::vector<float> released = release.of(sum);
    const double tolerance = 10.3 * release.plan.noise_stddev() / divisor;
    for (int64_t i = 0; i < kParameters; ++i) {
      const double expected = sum[i] * release.plan.grid() / divisor;
      ASSERT_NEAR(released[i], expected, tolerance + std::abs(expected) * 0x1p-23) << i;
    }
  }
}

// The number of drawn records and of microbatches is private: neither the divisor, nor the noise, nor the
// charge may depend on it.
TEST(Privatizer, ReleaseAndChargeDependOnTheSumAlone) {
  const std::vector<int32_t> sum(1000, 12345);
  std::vector<std::vector<float>> releases;
  for (const int64_t contributions : {0, 1, 2, 17}) {
    Release release({}, 1000);
    releases.push_back(release.of(sum, contributions));
    EXPECT_EQ(releases.back(), releases.front()) << contributions << " contributions";
  }
}

TEST(Privatizer, OneReleaseIsOneChargeWhateverTheNumberOfMicrobatches) {
  for (const int64_t microbatches : {0, 1, 5}) {
    Release release({}, 1000);
    for (int64_t step = 0; step < 3; ++step) {
      release.of(std::vector<int32_t>(1000), microbatches);
      EXPECT_EQ(release.ledger.charges(), step + 1) << microbatches << " microbatches";
    }
  }
}

TEST(Privatizer, ChargesBeforeItAgreesAndAgreesBeforeItSums) {
  Release release({}, 1000);
  std::vector<int64_t> charges_at_call;
  release.communicator.at_call = [&](const std::string&) {
    charges_at_call.push_back(release.ledger.charges());
  };
  release.of(std::vector<int32_t>(1000));
  EXPECT_EQ(release.communicator.calls, (std::vector<std::string>{"gather", "sum"}));
  EXPECT_EQ(charges_at_call, (std::vector<int64_t>{1, 1}));
}

// The ledger's disk is full from now on, for this process.
class FullDisk {
 public:
  explicit FullDisk(uint64_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST(Privatizer, ReleasesNothingWhereTheChargeCannotBeWritten) {
  const testing::TemporaryFolder folder;
  const plan::PrivacyPlan plan = test::make_plan({}, 1000);
  Release release({}, 1000, Ledger::create(folder / "ledger.jsonl", open_fields(plan)));
  {
    const FullDisk full(std::filesystem::file_size(folder / "ledger.jsonl"));
    EXPECT_THROW(release.of(std::vector<int32_t>(1000)), IoError);
  }
  EXPECT_TRUE(release.communicator.calls.empty());
}

TEST(Privatizer, RefusesToReleasePastTheBudgetAndChargesNothing) {
  Release release({.steps = 3}, 1000);
  for (int64_t step = 0; step < 3; ++step) {
    EXPECT_TRUE(release.privatizer.may_release());
    release.of(std::vector<int32_t>(1000));
  }
  EXPECT_FALSE(release.privatizer.may_release());
  const std::string before = release.ledger.text();
  const size_t calls = release.communicator.calls.size();
  EXPECT_THROW(release.of(std::vector<int32_t>(1000)), BudgetExhausted);
  EXPECT_EQ(release.ledger.text(), before);
  EXPECT_EQ(release.communicator.calls.size(), calls);
}

TEST(Privatizer, ADrawIsChargedOnce) {
  Release release({}, 10);
  EXPECT_EQ(release.privatizer.next_draw(), 0);
  release.of(std::vector<int32_t>(10));
  EXPECT_EQ(release.privatizer.next_draw(), 1);
  EXPECT_ANY_THROW(release.privatizer.release(ClippedSumAccess::make(std::vector<int32_t>(10)), 1, 0));
  EXPECT_EQ(release.ledger.charges(), 1);
}

// Pearson correlation of two releases of nothing: z ~ N(0, 1), false alarm 1e-7.
TEST(Privatizer, NoiseOfTwoStepsIsIndependent) {
  Release release({});
  const std::vector<int32_t> nothing(kParameters);
  const std::vector<float> first = release.of(nothing), second = release.of(nothing);
  double product = 0, a = 0, b = 0;
  for (int64_t i = 0; i < kParameters; ++i) {
    product += static_cast<double>(first[i]) * second[i];
    a += static_cast<double>(first[i]) * first[i];
    b += static_cast<double>(second[i]) * second[i];
  }
  EXPECT_LE(std::abs(product / std::sqrt(a * b)) * std::sqrt(kParameters), testing::kZ7);
}

// Whether the low bits of a release tell a sum of 0 from a sum of one grid unit. Divisor and grid are powers
// of two, so released / (grid / divisor) is the noisy integer itself as long as it fits 24 bits; the noise's
// standard deviation is 2^22 units, so almost all do.
class LowBits {
 public:
  explicit LowBits(int32_t x) {
    Release release({.max_grad_norm = 1, .noise_multiplier = 1, .expected_batch_size = 4});
    release.of(std::vector<int32_t>(kParameters));  // x = 1 gets the noise of another step than x = 0
    if (x == 1) release.of(std::vector<int32_t>(kParameters));
    for (const float v : release.of(std::vector<int32_t>(kParameters, x))) {
      const double integer = static_cast<double>(v) * 4 / release.plan.grid();
      if (std::abs(integer) >= 0x1p24) continue;
      ++values;
      if (integer != std::nearbyint(integer))
        ++off_the_grid;
      else
        ++counts[static_cast<int64_t>(integer) & 15];
    }
  }
  int64_t values = 0, off_the_grid = 0;
  std::array<int64_t, 16> counts{};
};

TEST(Privatizer, LowBitsOfAReleaseDoNotTellASumOfZeroFromASumOfOne) {
  const LowBits zero(0), one(1);
  EXPECT_GT(zero.values, kParameters * 0.99);
  EXPECT_EQ(zero.off_the_grid, 0);
  EXPECT_EQ(one.off_the_grid, 0);
  // Two-sample chi-square over the residues modulo 16: 15 degrees of freedom, P(> 65) = 4e-8.
  double statistic = 0;
  for (size_t r = 0; r < 16; ++r) {
    const double difference = static_cast<double>(zero.counts[r] - one.counts[r]);
    statistic +=
        difference * difference / static_cast<double>(std::max<int64_t>(1, zero.counts[r] + one.counts[r]));
  }
  EXPECT_LE(statistic, 65);
}

TEST(NoisyGradient, TakenInChunksByManyThreadsIsWhatItReads) {
  constexpr int64_t kSize = 50000, kChunk = 4096;
  Release release({}, kSize);
  const std::vector<int32_t> sum(kSize, 12345);
  NoisyGradient gradient = release.privatizer.release(ClippedSumAccess::make(sum), 0, 0);
  const std::vector<float> expected = gradient.values();
  std::vector<float> taken(kSize);
  EXPECT_FALSE(gradient.any_taken());
#pragma omp parallel for num_threads(4)
  for (int64_t begin = 0; begin < kSize; begin += kChunk)
    gradient.take(begin, std::span(taken).subspan(begin, std::min(kChunk, kSize - begin)));
  EXPECT_EQ(taken, expected);
  EXPECT_TRUE(gradient.any_taken());
  // The sum is gone: what is left is the noise alone.
  const std::vector<float> left = gradient.values();
  const double shift = 12345 * release.plan.grid() / release.plan.expected_batch_size();
  for (int64_t i = 0; i < kSize; ++i) ASSERT_NEAR(expected[i] - left[i], shift, 1e-3 * shift) << i;
}

TEST(Privatizer, AReleaseCannotBeMadeByOthers) {
  static_assert(!std::is_default_constructible_v<NoisyGradient>);
  static_assert(!std::is_constructible_v<NoisyGradient, FlatBuffer<int32_t>>);
  static_assert(!std::is_copy_constructible_v<NoisyGradient>);
}

}  // namespace
}  // namespace dpfa::privacy
