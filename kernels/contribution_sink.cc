#include "kernels/contribution_sink.h"

#include <bit>
#include <cmath>
#include <limits>

#include "src/base/clones.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

// The bits of a value that counts: all of them, or none, which leaves 0.0 of whatever it was. One more `and`
// for each element, in loops that wait for memory.
template <typename Word>
Word bits_that_count(double factor) {
  return factor > 0 ? static_cast<Word>(~Word{0}) : Word{0};
}

// One loop per element type, compiled for each vector width and chosen at load time. Rounding and conversion
// are exact operations, so every width gives the same bits.
DPFA_CLONES void add_scaled(int32_t* sum, const float* values, int64_t n, float scale, uint32_t counts) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float value = std::bit_cast<float>(std::bit_cast<uint32_t>(values[i]) & counts);
    sum[i] += static_cast<int32_t>(__builtin_rintf(value * scale));
  }
}

DPFA_CLONES void add_scaled_bf16(int32_t* sum, const uint16_t* values, int64_t n, float scale,
                                 uint32_t counts) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(values[i]) << 16 & counts);
    sum[i] += static_cast<int32_t>(__builtin_rintf(value * scale));
  }
}

template <typename T>
void add_double(double* sum, const T* values, int64_t n, double factor) {
  if (factor == 0) return;
  for (int64_t i = 0; i < n; ++i) sum[i] += factor * static_cast<double>(values[i]);
}

}  // namespace

float IntegerSink::scale(double factor) const {
  float rounded = static_cast<float>(factor);
  if (static_cast<double>(rounded) > factor)
    rounded = std::nextafter(rounded, -std::numeric_limits<float>::infinity());
  return std::ldexp(rounded, -grid_exponent_);
}

void IntegerSink::add(int64_t offset, std::span<const float> values, double factor) {
  if (DPFA_PLANT("accumulate_overwrite"))
    for (size_t i = 0; i < values.size(); ++i) sum_[offset + i] = 0;
  add_scaled(sum_.data() + offset, values.data(), static_cast<int64_t>(values.size()), scale(factor),
             bits_that_count<uint32_t>(factor));
}

void IntegerSink::add(int64_t offset, std::span<const c10::BFloat16> values, double factor) {
  add_scaled_bf16(sum_.data() + offset, reinterpret_cast<const uint16_t*>(values.data()),
                  static_cast<int64_t>(values.size()), scale(factor), bits_that_count<uint32_t>(factor));
}

void IntegerSink::add(int64_t offset, std::span<const double> values, double factor) {
  const double scale = std::ldexp(factor, -grid_exponent_);
  const auto counts = bits_that_count<uint64_t>(factor);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto value = std::bit_cast<double>(std::bit_cast<uint64_t>(values[i]) & counts);
    sum_[offset + i] += static_cast<int32_t>(std::rint(value * scale));
  }
}

void DoubleSink::add(int64_t offset, std::span<const float> values, double factor) {
  add_double(sum_.data() + offset, values.data(), static_cast<int64_t>(values.size()), factor);
}
void DoubleSink::add(int64_t offset, std::span<const c10::BFloat16> values, double factor) {
  add_double(sum_.data() + offset, values.data(), static_cast<int64_t>(values.size()), factor);
}
void DoubleSink::add(int64_t offset, std::span<const double> values, double factor) {
  add_double(sum_.data() + offset, values.data(), static_cast<int64_t>(values.size()), factor);
}

}  // namespace dpfa::kernels
