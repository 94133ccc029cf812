// Turns a ClippedSum into a NoisyGradient, having charged the ledger first: the only release of a run.
//
// Order, on every rank: charge (durable on rank 0) -> all ranks agree on (step, draw, plan digest, ledger
// digest) -> integer sum over ranks -> noise, once per global element -> one public divisor. With noise =
// shares each rank dithers and cuts its own sum and adds its share of the noise before the sum over ranks,
// which is then the release itself. With mode = masked the sum is masked and verified. A crash at any point
// can only leave a charge without a release. One release is one event of the plan, whatever was drawn.
#pragma once

#include <cstdint>
#include <optional>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "comm/secagg/secure_sum.h"
#include "src/base/random/rank_contribution.h"
#include "src/base/stream_key.h"
#include "src/plan/plan.h"
#include "src/privacy/clipped_sum.h"
#include "src/privacy/noisy_gradient.h"

namespace dpfa::privacy {

class Privatizer {
 public:
  // `noise_key` is the same on all ranks (noise = after_sum: rank 0 drew its root, ranks are trusted) and
  // fresh at each process start. noise = shares: `noise_key` and `dither_key` are this rank's alone, and the
  // communicator has the plan's number of ranks. `ledger`: the file on rank 0, a replica elsewhere.
  // `mask_keys`: where the plan says mode = masked, and only there. References must outlive the object.
  Privatizer(const plan::PrivacyPlan& plan, comm::Communicator& communicator, accounting::Ledger& ledger,
             const StreamKey& noise_key, const std::optional<StreamKey>& dither_key = std::nullopt,
             std::optional<comm::secagg::SessionKeys> mask_keys = std::nullopt);

  // Whether one more charge stays within what was planned. The same on all ranks.
  bool may_release() const;
  // The draw number of the next step: never used before in this run, restarts included.
  int64_t next_draw() const;
  // Throws CommError where the sum over ranks fails, IntegrityError on every rank where a masked one does not
  // verify: the draw is spent then, and a retry is a new step with a new draw. Throws BudgetExhausted where
  // may_release() is false, IoError where the charge cannot be made durable, StateError on every rank where
  // the ranks do not agree. `draw` is what next_draw() gave for the sampler.
  NoisyGradient release(ClippedSum sum, int64_t step, int64_t draw);

 private:
  void charge(int64_t step, int64_t draw);
  NoisyGradient release_shares(ClippedSum sum, int64_t step, int64_t draw);

  const plan::PrivacyPlan& plan_;
  comm::Communicator& communicator_;
  comm::secagg::SecureSum sum_over_ranks_;
  accounting::Ledger& ledger_;
  StreamKey noise_key_;
  std::optional<RankContribution> contribution_;  // noise = shares
  int64_t allowed_charges_;                       // takes the accountant a while: asked once
};

}  // namespace dpfa::privacy
