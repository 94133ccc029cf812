// Integers that never wrap, whatever is drawn.
#include "src/privacy/clipped_sum.h"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>

#include "src/base/error.h"
#include "tests/support/clipped_sum_access.h"

namespace dpfa::privacy {
namespace {

using test::ClippedSumAccess;

// The most that one example moves a coordinate: max_grad_norm / grid < 2^23, a share of 2^-8 of that with
// numerics = fp32, and half a unit of rounding.
constexpr int32_t kLargest = (1 << 23) + (1 << 15) + 1;
static_assert(kLargest == kernels::kLargestInteger);
constexpr int32_t kMost = std::numeric_limits<int32_t>::max();

TEST(ClippedSum, CanBeMovedButNeitherCopiedNorMadeByOthers) {
  static_assert(std::is_move_constructible_v<ClippedSum>);
  static_assert(!std::is_copy_constructible_v<ClippedSum>);
  static_assert(!std::is_copy_assignable_v<ClippedSum>);
  static_assert(!std::is_default_constructible_v<ClippedSum>);
  static_assert(!std::is_constructible_v<ClippedSum, FlatBuffer<int32_t>>);
}

TEST(ClippedSum, HoldsAsManyExtremeContributionsAsAreDrawn) {
  const std::vector<int32_t> zero(4, 0);
  for (const int64_t slots : {int64_t{1}, int64_t{7}, ClippedSumAccess::kFlushEvery}) {
    ClippedSum sum = ClippedSumAccess::make(zero, 0);
    int64_t contributions = 0;
    for (; contributions < 1000; contributions += slots) {
      const std::span<int32_t> target = ClippedSumAccess::reserve(sum, slots);
      for (int64_t k = 0; k < slots; ++k) {
        // In 64 bits, so that an overflow is seen and not undefined.
        const int64_t added = int64_t{target[0]} + kLargest;
        ASSERT_LE(added, kMost) << "after " << contributions + k << " contributions in microbatches of "
                                << slots;
        target[0] = static_cast<int32_t>(added);
        target[1] -= kLargest;
        target[2] += k % 2 == 0 ? 1 : -1;
      }
    }
    const std::vector<int64_t> expected = {contributions * kLargest, -contributions * kLargest,
                                           slots % 2 == 0 ? 0 : (contributions + slots - 1) / slots, 0};
    EXPECT_EQ(ClippedSumAccess::total(sum), expected) << "microbatches of " << slots;
  }
}

TEST(ClippedSum, MoreSlotsThanFit32BitsAreRefused) {
  ClippedSum sum = ClippedSumAccess::make(std::vector<int32_t>(1), 0);
  EXPECT_NO_THROW(ClippedSumAccess::reserve(sum, ClippedSumAccess::kFlushEvery));
  EXPECT_THROW(ClippedSumAccess::reserve(sum, ClippedSumAccess::kFlushEvery + 1), InternalError);
}

TEST(ClippedSum, ClampedSumsOfAllRanksFit32Bits) {
  for (const int ranks : {1, 2, 3, 8, 4096}) {
    ClippedSum sum = ClippedSumAccess::make(std::vector<int32_t>{kMost, -kMost, 5, -5, 0}, 1);
    ClippedSumAccess::clamp(sum, ranks);
    const std::vector<int32_t> clamped = ClippedSumAccess::narrow(sum);
    for (const int32_t value : clamped)
      EXPECT_LE(std::abs(int64_t{value}) * ranks, kMost) << ranks << " ranks";
    EXPECT_EQ(clamped[0], kMost / ranks);
    EXPECT_EQ(clamped[1], -(kMost / ranks));
    EXPECT_EQ(std::vector<int32_t>(clamped.begin() + 2, clamped.end()), (std::vector<int32_t>{5, -5, 0}));
  }
}

TEST(ClippedSum, ClampingWhatWasMovedTo64BitsNeverWraps) {
  for (const int sign : {1, -1}) {
    ClippedSum sum = ClippedSumAccess::make(std::vector<int32_t>(2), 0);
    for (int64_t k = 0; k < 600; ++k) {
      const std::span<int32_t> target = ClippedSumAccess::reserve(sum, 1);
      target[0] += sign * kLargest;
      target[1] += sign;
    }
    ClippedSumAccess::clamp(sum, 2);
    EXPECT_EQ(ClippedSumAccess::narrow(sum), (std::vector<int32_t>{sign * (kMost / 2), sign * 600}));
  }
}

// Clamping must not let one record move the sum further than it does without: |clamp(a) - clamp(b)| <= |a -
// b|.
TEST(ClippedSum, ClampingNeverMovesTwoSumsApart) {
  const std::vector<int32_t> values = {
      0, 1, -1, kMost / 8 - 1, kMost / 8, kMost / 8 + 1, -kMost / 8, -kMost / 8 - 3, kMost, -kMost};
  ClippedSum sum = ClippedSumAccess::make(values, 1);
  ClippedSumAccess::clamp(sum, 8);
  const std::vector<int32_t> clamped = ClippedSumAccess::narrow(sum);
  for (size_t i = 0; i < values.size(); ++i)
    for (size_t j = 0; j < values.size(); ++j)
      EXPECT_LE(std::abs(int64_t{clamped[i]} - clamped[j]), std::abs(int64_t{values[i]} - values[j]));
}

}  // namespace
}  // namespace dpfa::privacy
