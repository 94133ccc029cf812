// The sum of clipped per-example gradients of one rank and one step: the most private object of a run.
//
// Type state: it can only be moved, and only the Privatizer can read it, so nothing but a release turns a sum
// into numbers that an optimizer accepts. Oracle tests and `dpfa debug gradients` bring their own sinks
// (kernels/contribution_sink.h) and never see one.
//
// Integers in units of 2^grid_exponent. One example moves a coordinate by at most kernels::kLargestInteger,
// so kFlushEvery contributions fit 32 bits; then the sum moves on to 64 bits. Where the work of a step must
// not tell what was drawn, passes for nobody are counted among the contributions (they add zeros), and the
// room of the step alone decides whether there are 64 bits. Before a release (with noise = after_sum) each
// coordinate is clamped to the share of 32 bits that leaves room for all ranks: clamping is 1-Lipschitz, so
// the sensitivity does not grow, and the sum over ranks cannot wrap whatever was drawn.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/norm_route.h"
#include "src/base/flat_buffer.h"
#include "src/base/random/rank_contribution.h"

namespace dpfa::test {
struct ClippedSumAccess;  // tests/support/clipped_sum_access.h: sums with given content
}

namespace dpfa::privacy {

class ClippedSum {
 public:
  ClippedSum(ClippedSum&&) = default;
  ClippedSum& operator=(ClippedSum&&) = default;
  int64_t parameters() const { return sum_.size(); }

 private:
  friend class Clipper;
  friend class Privatizer;
  friend struct test::ClippedSumAccess;

  static constexpr int64_t kFlushEvery = kernels::kContributionsIn32Bits;

  // `room`: contributions that are sure to come; the 64 bits are made now where those need them.
  explicit ClippedSum(FlatBuffer<int32_t> zeroed, int64_t room = 0) : sum_(std::move(zeroed)) {
    if (room > kFlushEvery) wide_ = FlatBuffer<int64_t>(sum_.size());
  }
  // Makes room for `contributions` more of them (at most kFlushEvery) and returns where they go.
  std::span<int32_t> reserve(int64_t contributions);
  // The 32-bit sum of this rank, clamped for `world_size` ranks.
  void clamp(int world_size);
  // noise = shares: `lanes`, the 32-bit part of elements [first, first + size), become what this rank adds to
  // the sum of all ranks, its noise included. Disjoint lanes may be taken by several threads.
  void contribute(const RankContribution& contribution, int64_t draw, int64_t first,
                  std::span<int32_t> lanes) const;

  FlatBuffer<int32_t> sum_;
  FlatBuffer<int64_t> wide_;  // empty until the first flush, unless the room needs it
  int64_t since_flush_ = 0;   // contributions in sum_
  int64_t reservations_ = 0;  // microbatches; read by planted bugs only
};

}  // namespace dpfa::privacy
