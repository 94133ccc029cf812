#include "src/privacy/fingerprint_sink.h"

#include <bit>

#include "src/base/clones.h"

namespace dpfa::privacy {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195): one-to-one.
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Between neighbouring places.
constexpr uint64_t kPlace = 0x9e3779b97f4a7c15u;

// Every compute type is exact in double.
inline double value_of(float v) { return v; }
inline double value_of(double v) { return v; }
inline double value_of(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

template <typename T>
__attribute__((always_inline)) inline uint64_t sum_of_mixes(const T* values, int64_t n, uint64_t place) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += mix(place + static_cast<uint64_t>(i) * kPlace + std::bit_cast<uint64_t>(value_of(values[i])));
  return sum;
}

DPFA_CLONES uint64_t mixes(const float* v, int64_t n, uint64_t place) { return sum_of_mixes(v, n, place); }
DPFA_CLONES uint64_t mixes(const uint16_t* v, int64_t n, uint64_t place) { return sum_of_mixes(v, n, place); }
DPFA_CLONES uint64_t mixes(const double* v, int64_t n, uint64_t place) { return sum_of_mixes(v, n, place); }

template <typename T>
uint64_t fingerprint_of(int64_t offset, std::span<const T> values, double factor) {
  if (factor == 0) return 0;
  const uint64_t place = mix(std::bit_cast<uint64_t>(factor)) + static_cast<uint64_t>(offset) * kPlace;
  return mixes(values.data(), static_cast<int64_t>(values.size()), place);
}

}  // namespace

void FingerprintSink::add(int64_t offset, std::span<const float> values, double factor) {
  sum_ += fingerprint_of(offset, values, factor);
}

void FingerprintSink::add(int64_t offset, std::span<const c10::BFloat16> values, double factor) {
  const auto* bits = reinterpret_cast<const uint16_t*>(values.data());
  sum_ += fingerprint_of(offset, std::span(bits, values.size()), factor);
}

void FingerprintSink::add(int64_t offset, std::span<const double> values, double factor) {
  sum_ += fingerprint_of(offset, values, factor);
}

void FingerprintSink::take(const kernels::ExampleOutcome& outcome) {
  if (outcome.factor > 0) sum_ += mix(std::bit_cast<uint64_t>(outcome.norm));
}

}  // namespace dpfa::privacy
