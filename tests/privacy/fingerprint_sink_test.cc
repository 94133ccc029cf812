#include "src/privacy/fingerprint_sink.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

namespace dpfa::privacy {
namespace {

constexpr double kFactor = 0.25;

template <typename T>
uint64_t fingerprint(const std::vector<T>& values, int64_t offset = 3, double factor = kFactor) {
  FingerprintSink sink;
  sink.add(offset, std::span<const T>(values), factor);
  return sink.fingerprint();
}

// Lengths around those of all vectors.
std::vector<float> values_of(size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

TEST(FingerprintSink, ChangesWithEveryBitOfEveryElement) {
  for (const size_t count : {1u, 7u, 8u, 9u, 67u}) {
    std::vector<float> values = values_of(count);
    const uint64_t before = fingerprint(values);
    for (float& value : values)
      for (int bit = 0; bit < 32; ++bit) {
        const float kept = value;
        value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) ^ uint32_t{1} << bit);
        EXPECT_NE(fingerprint(values), before) << count << ", bit " << bit;
        value = kept;
      }
    EXPECT_EQ(fingerprint(values), before);
  }
}

TEST(FingerprintSink, ChangesWithPlaceAndFactorAndNorm) {
  const std::vector<float> values = values_of(67);
  const uint64_t before = fingerprint(values);
  EXPECT_NE(fingerprint(values, 4), before);
  EXPECT_NE(fingerprint(values, 3, std::nextafter(kFactor, 1)), before);
  std::vector<float> exchanged = values;
  std::swap(exchanged[10], exchanged[50]);
  EXPECT_NE(fingerprint(exchanged), before);
  FingerprintSink one, other;
  one.take({1.0, 0.5});
  other.take({std::nextafter(1.0, 2), 0.5});
  EXPECT_NE(one.fingerprint(), other.fingerprint());
}

TEST(FingerprintSink, OfPartsInAnyOrderAddsUpToThatOfTheWhole) {
  const std::vector<float> values = values_of(67);
  const std::span<const float> whole(values);
  FingerprintSink parts, front, back;
  parts.add(3 + 13, whole.subspan(13), kFactor);
  parts.add(3, whole.first(13), kFactor);
  EXPECT_EQ(parts.fingerprint(), fingerprint(values));
  front.add(3, whole.first(13), kFactor);
  back.add(3 + 13, whole.subspan(13), kFactor);
  EXPECT_EQ(front.fingerprint() + back.fingerprint(), fingerprint(values));
}

TEST(FingerprintSink, IsOfValuesAndNotOfTheirType) {
  const std::vector<float> values = values_of(67);
  EXPECT_EQ(fingerprint(std::vector<double>(values.begin(), values.end())), fingerprint(values));
  EXPECT_EQ(fingerprint(std::vector<c10::BFloat16>(values.begin(), values.end())), fingerprint(values));
}

TEST(FingerprintSink, OfWhatDoesNotCountIsThatOfNothing) {
  FingerprintSink sink;
  const std::vector<float> values = values_of(67);
  sink.add(3, std::span<const float>(values), 0);
  sink.take({7.0, 0});
  EXPECT_EQ(sink.fingerprint(), 0u);
}

}  // namespace
}  // namespace dpfa::privacy
