#include "src/privacy/privatizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "accounting/event.h"
#include "kernels/noise.h"
#include "src/base/check.h"
#include "src/base/plant.h"
#include "src/privacy/agreement.h"

namespace dpfa::privacy {
namespace {

using comm::secagg::SecureSum;
using comm::secagg::SessionKeys;

SecureSum sum_of(const plan::PrivacyPlan& plan, comm::Communicator& communicator,
                 std::optional<SessionKeys> mask_keys) {
  DPFA_CHECK((plan.aggregation_mode() == "masked") == mask_keys.has_value(), plan.aggregation_mode());
  const auto shares = plan.noise_shares();
  const int lane_bits = shares ? shares->lane_bits : 32;
  return mask_keys ? SecureSum(communicator, lane_bits, std::move(*mask_keys))
                   : SecureSum(communicator, lane_bits);
}

}  // namespace

Privatizer::Privatizer(const plan::PrivacyPlan& plan, comm::Communicator& communicator,
                       accounting::Ledger& ledger, const StreamKey& noise_key,
                       const std::optional<StreamKey>& dither_key, std::optional<SessionKeys> mask_keys)
    : plan_(plan),
      communicator_(communicator),
      sum_over_ranks_(sum_of(plan, communicator, std::move(mask_keys))),
      ledger_(ledger),
      noise_key_(noise_key),
      allowed_charges_(plan.allowed_charges()) {
  DPFA_CHECK(plan.is_private());
  const auto shares = plan.noise_shares();
  if (!shares) return;
  DPFA_CHECK(dither_key && shares->ranks == communicator.size(), "noise shares of ", shares->ranks,
             " ranks on ", communicator.size());
  contribution_.emplace(shares->share, noise_key, *dither_key);
}

bool Privatizer::may_release() const { return ledger_.charges() < allowed_charges_; }

int64_t Privatizer::next_draw() const { return ledger_.last_draw() + 1; }

void Privatizer::charge(int64_t step, int64_t draw) {
  if (!may_release())
    throw BudgetExhausted("the privacy budget is spent: " + std::to_string(ledger_.charges()) +
                          " charges are in the ledger and one more would exceed the plan");
  ledger_.charge(step, draw, accounting::to_json(plan_.event()));
}

NoisyGradient Privatizer::release_shares(ClippedSum sum, int64_t step, int64_t draw) {
  // Dither, cut and noise in the one pass that hashes, packs and masks: no un-noised contribution is written.
  comm::secagg::SecureSum::Prepare contribute = [&](int64_t first, std::span<int32_t> lanes) {
    sum.contribute(*contribution_, draw, first, lanes);
  };
  if (DPFA_PLANT("rank_0_noise") && communicator_.rank() != 0) {
    sum.clamp(communicator_.size());
    contribute = {};
  }
  try {
    sum_over_ranks_.sum(draw, /*attempt=*/0, sum.sum_.span(), contribute);
  } catch (const CommError&) {
    if (!DPFA_PLANT("retry_same_batch") && !DPFA_PLANT("retry_without_charge")) throw;
    if (DPFA_PLANT("retry_same_batch")) charge(step, draw);
    sum_over_ranks_.sum(draw, /*attempt=*/1, sum.sum_.span());
  }
  // The sum has its noise: none is added when it is read.
  return NoisyGradient(std::move(sum.sum_), {StreamKey({}), static_cast<uint64_t>(draw), kernels::NoiseSpec{},
                                             plan_.lane_grid() / plan_.expected_batch_size()});
}

NoisyGradient Privatizer::release(ClippedSum sum, int64_t step, int64_t draw) {
  charge(step, draw);
  if (DPFA_PLANT("accountant_microbatch_steps"))
    for (int64_t k = 1; k < sum.reservations_; ++k) charge(step, next_draw());
  agree(communicator_,
        {.step = step, .draw = draw, .plan_digest = plan_.digest(), .ledger_digest = ledger_.digest()});

  if (contribution_) return release_shares(std::move(sum), step, draw);
  sum.clamp(communicator_.size());
  sum_over_ranks_.sum(draw, /*attempt=*/0, sum.sum_.span());

  kernels::NoiseSpec spec{
      .stddev_in_grid_units = plan_.noise_stddev() / plan_.grid(),
      .generator = plan_.generator() == "philox" ? Generator::kPhilox : Generator::kChaCha20};
  double divisor = plan_.expected_batch_size();
  if (DPFA_PLANT("noise_div_B_twice")) spec.stddev_in_grid_units /= divisor;
  if (DPFA_PLANT("noise_per_microbatch"))
    spec.stddev_in_grid_units *= std::sqrt(std::max<double>(1, static_cast<double>(sum.reservations_)));
  if (DPFA_PLANT("realised_batch_normaliser"))
    divisor = std::max<double>(1, static_cast<double>(sum.since_flush_));
  return NoisyGradient(std::move(sum.sum_),
                       {noise_key_, static_cast<uint64_t>(draw), spec, plan_.grid() / divisor});
}

}  // namespace dpfa::privacy
