// The sum of the contributions of all ranks, of which nothing but the sum becomes known.
//
// Pass over a contribution, chunk by chunk in the cache: make the lanes, hash them, pack them into words
// (lane_layout.h), add the masks (masks.h). Then one unchanged integer sum of the communicator, in which the
// masks cancel, and the check that the decoded sum has the hash of the contributions (lane_hash.h).
// `plaintext` is the same path with zero masks and without the check. The pass and the sum are those of this
// processor's memory, shared between the OpenMP threads of the caller (their number changes no bit), or those
// of another device's Bucket; all else is the same code for both.
//
// Guarantee of `masked`: t = colluding_ranks ranks and the network together learn no more of the others'
// contributions than their sum. A sum that differs from the sum of the contributions (a wrapped lane,
// altered, lost, doubled or exchanged words, a wrong key, ranks at different steps) is refused on all ranks,
// except with probability 2^-70 or where a rank helps whoever alters it. That a rank contributes what it
// should cannot be seen from a masked sum.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/secagg/bucket.h"
#include "comm/secagg/key_agreement.h"
#include "comm/secagg/lane_layout.h"

namespace dpfa::comm::secagg {

class SecureSum {
 public:
  // Changes lanes [first, first + size) of the contribution in place just before they are hashed: dither,
  // clamp and noise go here, so that lanes without noise are not written to memory a second time. Called once
  // for every lane, by all OpenMP threads at once and in any order; `first` is a multiple of 3072. A plain
  // sum passes nothing.
  using Prepare = std::function<void(int64_t first, std::span<int32_t> lanes)>;

  // masked; plaintext. Throws ConfigError for lanes of another width than lane_layout.h knows.
  SecureSum(Communicator& communicator, int lane_bits, SessionKeys keys);
  SecureSum(Communicator& communicator, int lane_bits);

  bool masked() const { return keys_.has_value(); }

  // Collective. lanes := sum over ranks of the lanes, for sums within the lane's range. Every rank brings the
  // same number of them.
  // (step, attempt) must be larger than at every call before, in lexicographic order, or InternalError is
  // thrown before anything is sent: a pad serves once. A failed sum is not repeated: the next one is a new
  // step with a new draw, new noise and a new charge. Throws IntegrityError on every rank alike where the sum
  // does not verify; the lanes are then all 0. (An active network can keep the verdict from a rank; that rank
  // then throws too, and the others lose a peer.)
  void sum(int64_t step, int64_t attempt, std::span<int32_t> lanes, const Prepare& prepare = {});
  // The same of a bucket, whose lanes have the width given above.
  void sum(int64_t step, int64_t attempt, Bucket& bucket);

 private:
  void check_order(int64_t step, int64_t attempt);
  bool verifies(uint64_t nonce, const Bucket::Hashes& hashes);
  HashTotals sum_hashes(uint64_t nonce, const HashTotals& own);
  bool all_verify(uint64_t nonce, bool good, const HashTotals& totals);

  Communicator& communicator_;
  int lane_bits_;
  std::optional<SessionKeys> keys_;
  std::optional<StreamKey> points_;
  std::optional<Secret> verdicts_;
  int64_t last_step_ = -1, last_attempt_ = -1;
  std::vector<uint32_t> words32_;  // of layouts in which lanes share words
  std::vector<uint64_t> words64_;
};

}  // namespace dpfa::comm::secagg
