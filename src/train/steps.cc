#include "src/train/steps.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>
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

class PrivateSteps final : public Steps {
 public:
  PrivateSteps(const StepContext& context, accounting::Ledger& ledger)
      : c_(context),
        clipper_(c_.plan, c_.model,
                 norm_methods(c_.config.runtime, c_.context,
                              [rank = c_.communicator.rank()](const std::string& line) {
                                if (rank == 0) std::cerr << line << '\n';
                              }),
                 /*every_row=*/c_.config.runtime.constant_step_slots),
        privatizer_(c_.plan, c_.communicator, ledger, c_.keys.noise, c_.keys.dither, c_.keys.masks),
        sampler_(sampler_of(c_)),
        optimizer_(c_.config.optimizer, model::gpt2_parameters(c_.model.shape())) {}

  StepResult run(int64_t step, double rate) override {
    if (!privatizer_.may_release()) return StepResult::kBudgetExhausted;
    const int64_t draw = privatizer_.next_draw();
    const std::vector<int64_t> drawn =
        sampler_.draw(DPFA_PLANT("resume_same_draw") ? step : draw, c_.dataset.size());
    if (DPFA_PLANT("skip_empty_batch") && drawn.empty()) return StepResult::kDone;
    const std::optional<model::Dropout> dropout = dropout_of(c_, draw);
    privacy::ClippedSum sum = clipper_.zero(std::move(spent_));
    spent_.reset();
    for_each_microbatch(c_, drawn, [&](const data::Microbatch& microbatch) {
      clipper_.accumulate(microbatch, dropout ? &*dropout : nullptr, sum);
    });
    if (c_.config.runtime.constant_step_slots && !DPFA_PLANT("passes_follow_the_draw"))
      make_passes_for_nobody(static_cast<int64_t>(drawn.size()), dropout ? &*dropout : nullptr);
    c_.watchdog.progress("agree whether to stop");
    if (any_rank_stops(c_.communicator)) return StepResult::kStopped;
    c_.watchdog.progress("release");
    state_agreed([&] { spent_ = privatizer_.release(std::move(sum), step, draw); });
    c_.watchdog.progress("optimizer");
    optimizer_.apply(*spent_, rate, c_.weights, c_.model.bf16_weights());
    return StepResult::kDone;
  }

  OptimizerState& optimizer_state() override { return optimizer_.state(); }
  std::optional<double> last_training_loss() const override { return std::nullopt; }

 private:
  // The passes that a step of this rank has room for and did not need, on a made-up record, into a sum that
  // nobody reads. A draw beyond that room (2^-60 per step where dataset_size is what was declared) takes
  // longer; no record is left out for it.
  void make_passes_for_nobody(int64_t drawn, const model::Dropout* dropout) {
    // How many of the declared records are this rank's own is private: it could be all of them.
    const int64_t ranks = c_.config.data.each_rank_has_its_own() ? 1 : c_.communicator.size();
    const int64_t own_records = (*c_.config.privacy.dataset_size + ranks - 1) / ranks;
    const int64_t passes = data::most_drawn(c_.plan.sample_rate(), own_records);
    const data::Microbatch made_up = data::made_up_microbatch(1, c_.context, c_.model.shape().vocab);
    privacy::ClippedSum unread = clipper_.zero();
    for (int64_t pass = drawn; pass < passes && !stop_requested(); ++pass) {
      c_.watchdog.progress("microbatch");
      clipper_.accumulate(made_up, dropout, unread);
    }
  }

  StepContext c_;
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
        optimizer_(c_.config.optimizer, model::gpt2_parameters(c_.model.shape())),
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
