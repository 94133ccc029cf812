// A sink that compares contributions without keeping them.
//
// The fingerprint is the sum, modulo 2^64, of a mix of each element's place, value bits and factor bits, and
// of the bits of each norm. Equal contributions have equal fingerprints in whatever order and pieces they
// come, and fingerprints of parts add up to that of the whole. One element with another bit always changes
// it; changes of several elements cancel by accident alone, for 2^-64 of them. It is no cryptographic hash:
// nothing here defends against whoever would choose the contributions.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "kernels/contribution_sink.h"
#include "kernels/norm_route.h"

namespace dpfa::privacy {

class FingerprintSink final : public kernels::ContributionSink {
 public:
  // Any values with factor 0 are zeros and change nothing. Different runs may be added by several threads.
  void add(int64_t offset, std::span<const float> values, double factor) override;
  void add(int64_t offset, std::span<const c10::BFloat16> values, double factor) override;
  void add(int64_t offset, std::span<const double> values, double factor) override;
  // The norm of a record that counts; that of one that does not is in nothing that it adds.
  void take(const kernels::ExampleOutcome& outcome);

  uint64_t fingerprint() const { return sum_.load(); }

 private:
  std::atomic<uint64_t> sum_ = 0;
};

}  // namespace dpfa::privacy
