// Where clipped per-example gradients are added up.
//
// The product adds integers: contribution = round(factor x value / grid) element by element, on the public
// power-of-two grid of the plan. Integer sums are associative, so the sum has the same bits for any order,
// microbatch split and rank count, and one example's contribution cannot be changed by another's.
// factor is rounded down to f32, the product is one f32 multiplication: each at most 2^-24 relative.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <span>

namespace dpfa::kernels {

class ContributionSink {
 public:
  virtual ~ContributionSink() = default;
  // Adds factor x values[i] to element offset + i. Calls on disjoint ranges may run concurrently.
  // `values` are finite where factor > 0. factor = 0 adds zeros whatever the values are (0 x NaN is NaN, so
  // they are not multiplied): routes of constant work alone ask for it. Above 1: clip_rule.h.
  virtual void add(int64_t offset, std::span<const float> values, double factor) = 0;
  virtual void add(int64_t offset, std::span<const c10::BFloat16> values, double factor) = 0;
  virtual void add(int64_t offset, std::span<const double> values, double factor) = 0;
};

// factor = 0 takes the reads, writes and arithmetic of any other.
class IntegerSink final : public ContributionSink {
 public:
  // `sum` (P) holds integers in units of 2^grid_exponent. The caller keeps it from overflowing
  // (src/privacy/clipped_sum.h counts the contributions).
  IntegerSink(std::span<int32_t> sum, int grid_exponent) : sum_(sum), grid_exponent_(grid_exponent) {}
  void add(int64_t offset, std::span<const float> values, double factor) override;
  void add(int64_t offset, std::span<const c10::BFloat16> values, double factor) override;
  void add(int64_t offset, std::span<const double> values, double factor) override;

 private:
  float scale(double factor) const;
  std::span<int32_t> sum_;
  int grid_exponent_;
};

// Sums in double, for oracles and `dpfa debug gradients`: never on the path of a release.
class DoubleSink final : public ContributionSink {
 public:
  explicit DoubleSink(std::span<double> sum) : sum_(sum) {}
  void add(int64_t offset, std::span<const float> values, double factor) override;
  void add(int64_t offset, std::span<const c10::BFloat16> values, double factor) override;
  void add(int64_t offset, std::span<const double> values, double factor) override;

 private:
  std::span<double> sum_;
};

}  // namespace dpfa::kernels
