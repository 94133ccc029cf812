#include "src/train/steps.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>
#include <utility>
#include <vector>

#include "src/base/plant.h"
#include "src/data/microbatch.h"
#include "src/data/sampler.h"
#include "src/privacy/clipper.h"
#include "src/privacy/privatizer.h"
#include "src/train/baseline_gradient.h"
#include "src/train/collective.h"
#include "src/train/stop_signal.h"
#include "src/train/tuning.h"

namespace dpfa::train {
namespace {

// Whether any rank was asked to stop. Every rank takes part once per step, whatever it drew.
bool any_rank_stops(comm::Communicator& communicator) {
  int64_t wish = stop_requested() ? 1 : 0;
  communicator.all_reduce_max(std::span<int64_t>(&wish, 1));
  return wish != 0;
}

std::optional<model::Dropout> dropout_of(const StepContext& c, int64_t draw) {
  if (c.config.model.dropout == 0) return std::nullopt;
  return model::Dropout{c.config.model.dropout, c.keys.dropout, draw};
}

// Calls `use` for each fixed-shape chunk of the drawn records, until a stop is asked for on this rank.
void for_each_microbatch(const StepContext& c, const std::vector<int64_t>& drawn,
                         const std::function<void(const data::Microbatch&)>& use) {
  data::Microbatch microbatch;
  const int64_t slots = c.microbatch_size, count = static_cast<int64_t>(drawn.size());
  for (int64_t first = 0; first < count && !stop_requested(); first += slots) {
    c.watchdog.progress("microbatch");
    const std::span<const int64_t> chunk(drawn.data() + first, std::min(slots, count - first));
    data::fill_microbatch(c.dataset, chunk, slots, c.context, microbatch);
    use(microbatch);
  }
}

// Every record is decided about by one rank: by its number, or by the rank in whose folder it is.
data::PoissonSampler sampler_of(const StepContext& c) {
  const bool own = c.config.data.each_rank_has_its_own();
  return {c.keys.sampling, c.plan.sample_rate(), own ? 0 : c.communicator.rank(),
          own ? 1 : c.communicator.size()};
}

template <typename Gradient>
Optimizer<Gradient> optimizer_of(const StepContext& c) {
  const auto parameters = model::gpt2_parameters(c.model.shape());
  if (c.restored == nullptr) return {c.config.optimizer, parameters};
  return {c.config.optimizer, parameters, std::move(*c.restored)};
}

// What a step of this rank has room for under constant_step_slots. How many of the declared records are in a
// rank's own folder is private: it could be all of them.
std::optional<data::StepRoom> room_of(const StepContext& c) {
  if (!c.config.runtime.constant_step_slots) return std::nullopt;
  return data::room_of(c.plan.sample_rate(), *c.config.privacy.dataset_size, c.communicator.size(),
                       c.config.data.each_rank_has_its_own());
}

// A record that is nobody's, in a slot of its own.
data::Microbatch record_of_nobody(const StepContext& c) {
  data::Microbatch microbatch = data::made_up_microbatch(1, c.context, c.model.shape().vocab);
  if (!DPFA_PLANT("nobody_counts")) microbatch.records = {-1};
  return microbatch;
}

class PrivateSteps final : public Steps {
 public:
  PrivateSteps(const StepContext& context, accounting::Ledger& ledger)
      : c_(context),
        room_(room_of(c_)),
        nobody_(record_of_nobody(c_)),
        clipper_(c_.plan, c_.model,
                 norm_methods(c_.config.runtime, c_.context,
                              [rank = c_.communicator.rank()](const std::string& line) {
                                if (rank == 0) std::cerr << line << '\n';
                              }),
                 /*constant_work=*/c_.config.runtime.constant_step_slots),
        privatizer_(c_.plan, c_.communicator, ledger, c_.keys.noise, c_.keys.dither,
                    std::exchange(c_.keys.masks, std::nullopt)),
        sampler_(sampler_of(c_)),
        optimizer_(optimizer_of<privacy::NoisyGradient>(c_)) {
    if (DPFA_PLANT("methods_wait_for_a_record")) return;
    c_.watchdog.progress("measure norm methods");
    clipper_.choose_methods(c_.microbatch_size, c_.context);
    if (c_.microbatch_size > 1 &&
        !may_share_passes(clipper_, c_.microbatch_size, c_.context, c_.config.model.dropout,
                          [this] { c_.watchdog.progress("self-test"); })) {
      c_.microbatch_size = 1;
      clipper_.choose_methods(c_.microbatch_size, c_.context);
    }
  }

  StepResult run(int64_t step, double rate) override {
    if (!privatizer_.may_release()) return StepResult::kBudgetExhausted;
    const int64_t draw = privatizer_.next_draw();
    const std::vector<int64_t> drawn = draw_records(DPFA_PLANT("resume_same_draw") ? step : draw);
    if (DPFA_PLANT("skip_empty_batch") && drawn.empty()) return StepResult::kDone;
    const std::optional<model::Dropout> dropout = dropout_of(c_, draw);
    privacy::ClippedSum sum = clipper_.zero(std::move(spent_), room_ ? room_->passes : 0);
    spent_.reset();
    for_each_microbatch(c_, drawn, [&](const data::Microbatch& microbatch) {
      clipper_.accumulate(microbatch, dropout ? &*dropout : nullptr, sum);
    });
    if (room_) make_passes_for_nobody(static_cast<int64_t>(drawn.size()), dropout, sum);
    c_.watchdog.progress("agree whether to stop");
    if (any_rank_stops(c_.communicator)) return StepResult::kStopped;
    c_.watchdog.progress("release");
    state_agreed([&] { spent_ = privatizer_.release(std::move(sum), step, draw); });
    c_.watchdog.progress("optimizer");
    optimizer_.apply(*spent_, rate, c_.weights, c_.model.bf16_weights());
    return StepResult::kDone;
  }

  OptimizerState& optimizer_state() override { return optimizer_.state(); }
  int64_t records_per_pass() const override { return c_.microbatch_size; }
  std::optional<double> last_training_loss() const override { return std::nullopt; }

 private:
  // The records of a step. With constant_step_slots the coins are those of as many records as there is room
  // for, whatever the data hold: records beyond the room have none, and of a draw beyond the passes, which
  // has a probability below kOverrun, the last are left out. docs/privacy_model.md says what that costs.
  std::vector<int64_t> draw_records(int64_t draw) const {
    if (!room_) return sampler_.draw(draw, c_.dataset.size());
    std::vector<int64_t> drawn = sampler_.draw(draw, room_->records);
    std::erase_if(drawn, [this](int64_t record) { return record >= c_.dataset.size(); });
    if (static_cast<int64_t>(drawn.size()) > room_->passes) drawn.resize(room_->passes);
    return drawn;
  }

  // The passes that a step of this rank has room for and did not need: a record that is nobody's takes the
  // work of any other and adds zeros to the sum, which counts its passes whoever they are for.
  void make_passes_for_nobody(int64_t drawn, const std::optional<model::Dropout>& dropout,
                              privacy::ClippedSum& sum) {
    if (DPFA_PLANT("passes_follow_the_draw")) return;
    const int64_t passes = DPFA_PLANT("one_pass_for_nobody") ? drawn + 1 : room_->passes;
    for (int64_t pass = drawn; pass < passes && !stop_requested(); ++pass) {
      c_.watchdog.progress("microbatch");
      clipper_.accumulate(nobody_, dropout ? &*dropout : nullptr, sum);
    }
  }

  StepContext c_;
  std::optional<data::StepRoom> room_;
  data::Microbatch nobody_;
  privacy::Clipper clipper_;
  privacy::Privatizer privatizer_;
  data::PoissonSampler sampler_;
  Optimizer<privacy::NoisyGradient> optimizer_;
  std::optional<privacy::NoisyGradient> spent_;  // applied; its memory becomes the next step's sum
};

class BaselineSteps final : public Steps {
 public:
  explicit BaselineSteps(const StepContext& context)
      : c_(context),
        sampler_(sampler_of(c_)),
        optimizer_(optimizer_of<BaselineGradient>(c_)),
        gradient_(c_.model.shape().parameter_count()) {}

  StepResult run(int64_t step, double rate) override {
    const std::vector<int64_t> drawn = sampler_.draw(step, c_.dataset.size());
    const std::optional<model::Dropout> dropout = dropout_of(c_, step);
    std::fill(gradient_.sum().begin(), gradient_.sum().end(), 0.0f);
    double loss = 0;
    for_each_microbatch(c_, drawn, [&](const data::Microbatch& microbatch) {
      std::vector<double> losses(microbatch.slots);
      const std::vector<double> weights = privacy::loss_weights(microbatch, c_.plan.loss());
      const model::Batch batch = privacy::to_batch(microbatch, weights, /*skips_padding=*/true);
      c_.model.forward(batch, dropout ? &*dropout : nullptr, /*for_backward=*/true, losses);
      if (c_.model.offsets().back() > 0)
        model::add_batch_gradient(c_.model, /*overwrite=*/false, gradient_.sum());
      loss = std::accumulate(losses.begin(), losses.end(), loss);
    });
    training_loss_ = loss / std::max<double>(1, static_cast<double>(drawn.size()));
    if (any_rank_stops(c_.communicator)) return StepResult::kStopped;
    c_.watchdog.progress("reduce");
    c_.communicator.all_reduce_sum(gradient_.sum());
    const float scale = static_cast<float>(1 / c_.plan.expected_batch_size());
    for (float& g : gradient_.sum()) g *= scale;
    optimizer_.apply(gradient_, rate, c_.weights, c_.model.bf16_weights());
    return StepResult::kDone;
  }

  OptimizerState& optimizer_state() override { return optimizer_.state(); }
  int64_t records_per_pass() const override { return c_.microbatch_size; }
  std::optional<double> last_training_loss() const override { return training_loss_; }

 private:
  StepContext c_;
  data::PoissonSampler sampler_;
  Optimizer<BaselineGradient> optimizer_;
  BaselineGradient gradient_;
  double training_loss_ = 0;
};

}  // namespace

std::unique_ptr<Steps> make_private_steps(const StepContext& context, accounting::Ledger& ledger) {
  return std::make_unique<PrivateSteps>(context, ledger);
}

std::unique_ptr<Steps> make_baseline_steps(const StepContext& context) {
  return std::make_unique<BaselineSteps>(context);
}

}  // namespace dpfa::train
