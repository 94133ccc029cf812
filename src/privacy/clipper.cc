#include "src/privacy/clipper.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::privacy {
namespace {

// The planted mistake of clipping the mean of a batch instead of each example.
void add_clipped_mean(model::Gpt2& model, int64_t examples, kernels::Clipping clip,
                      kernels::ContributionSink& sink) {
  std::vector<float> gradient(model.shape().parameter_count());
  model::add_batch_gradient(model, /*overwrite=*/true, gradient);
  double squares = 0;
  for (float g : gradient) squares += static_cast<double>(g) * g;
  const double mean_norm = std::sqrt(squares) / static_cast<double>(std::max<int64_t>(examples, 1));
  sink.add(0, std::span<const float>(gradient), kernels::clip_factor(mean_norm, clip));
}

// For passes of which only the side effects are wanted.
class DiscardSink final : public kernels::ContributionSink {
 public:
  void add(int64_t, std::span<const float>, double) override {}
  void add(int64_t, std::span<const c10::BFloat16>, double) override {}
  void add(int64_t, std::span<const double>, double) override {}
};

}  // namespace

kernels::Clipping clipping_of(const plan::PrivacyPlan& plan) {
  const bool automatic = plan.clipping() == "automatic";
  DPFA_CHECK(automatic || plan.clipping() == "flat", "clipping = ", plan.clipping());
  return {plan.max_grad_norm(), automatic ? kernels::ClipRule::kAutomatic : kernels::ClipRule::kFlat};
}

std::vector<double> loss_weights(const data::Microbatch& microbatch, const std::string& loss) {
  std::vector<double> weights(microbatch.slots, 0.0);
  for (int64_t b = 0; b < microbatch.slots; ++b) {
    const int64_t targets = microbatch.target_counts[b];
    if (targets > 0) weights[b] = loss == "token_sum" ? 1.0 : 1.0 / static_cast<double>(targets);
  }
  if (DPFA_PLANT("batch_mean_loss")) {
    const auto all = std::accumulate(microbatch.target_counts.begin(), microbatch.target_counts.end(), 0.0);
    for (double& weight : weights) weight = weight > 0 ? 1 / all : 0;
  }
  return weights;
}

model::Batch to_batch(const data::Microbatch& microbatch, std::span<const double> weights,
                      bool skips_padding) {
  model::Batch batch{microbatch.slots,   microbatch.tokens, microbatch.input_ids,
                     microbatch.targets, weights,           microbatch.records};
  for (int64_t b = 0; skips_padding && b < microbatch.slots; ++b) {
    int64_t length = microbatch.records[b] >= 0 ? microbatch.tokens : 0;
    while (length > 0 && microbatch.targets[b * microbatch.tokens + length - 1] < 0) --length;
    batch.lengths.push_back(length);
  }
  return batch;
}

Clipper::Clipper(const plan::PrivacyPlan& plan, model::Gpt2& model, kernels::NormMethodChoice methods,
                 bool constant_work)
    : plan_(plan),
      model_(model),
      constant_work_(constant_work),
      measures_methods_(plan.numerics() == "fp32" && methods.method == "auto") {
  DPFA_CHECK(plan.numerics() == "exact" || !model.execution().recompute_layers,
             "layers that are recomputed have no route of numerics = ", plan.numerics());
  methods.constant_work = constant_work && !DPFA_PLANT("excluded_records_cost_nothing");
  route_ = plan.numerics() == "exact" ? kernels::make_exact_route(methods.constant_work)
                                      : kernels::make_gram_route(std::move(methods));
}

Clipper::~Clipper() = default;

bool Clipper::skips_padding() const {
  if (DPFA_PLANT("rows_follow_the_record")) return true;
  return !constant_work_ && model_.compute() != at::kBFloat16;
}

void Clipper::choose_methods(int64_t slots, int64_t context) {
  if (!measures_methods_) return;
  DiscardSink unread;
  accumulate_into(data::made_up_microbatch(slots, context, model_.shape().vocab), nullptr, unread);
}

ClippedSum Clipper::zero(std::optional<NoisyGradient> spent, int64_t room) const {
  const int64_t parameters = model_.shape().parameter_count();
  if (!spent) return ClippedSum(FlatBuffer<int32_t>(parameters), room);
  DPFA_CHECK(spent->size() == parameters && spent->taken_ == parameters);  // so every element is zero
  return ClippedSum(std::move(spent->sum_), room);
}

void Clipper::accumulate(const data::Microbatch& microbatch, const model::Dropout* dropout, ClippedSum& sum) {
  DPFA_CHECK(plan_.is_private());
  int64_t contributions = microbatch.slots;
  if (DPFA_PLANT("flush_follows_the_draw"))
    contributions -= std::count(microbatch.records.begin(), microbatch.records.end(), -1);
  kernels::IntegerSink sink(sum.reserve(contributions), plan_.grid_exponent());
  accumulate_into(microbatch, dropout, sink);
}

std::vector<kernels::ExampleOutcome> Clipper::accumulate_into(const data::Microbatch& microbatch,
                                                              const model::Dropout* dropout,
                                                              kernels::ContributionSink& sink,
                                                              std::vector<double>* losses_out) {
  std::vector<kernels::ExampleOutcome> outcomes(microbatch.slots);
  std::vector<double> losses(microbatch.slots, 0.0);
  const std::vector<double> weights = loss_weights(microbatch, plan_.loss());
  model::Batch batch = to_batch(microbatch, weights, skips_padding());
  batch.every_row = constant_work_;
  model_.forward(batch, dropout, /*for_backward=*/true, losses);
  if (model_.offsets().back() > 0) {
    std::vector<uint8_t> selected(microbatch.slots);
    for (int64_t b = 0; b < microbatch.slots; ++b)
      selected[b] = microbatch.records[b] >= 0 && microbatch.target_counts[b] > 0 &&
                    (std::isfinite(losses[b]) || DPFA_PLANT("zero_times_nan"));
    if (DPFA_PLANT("clip_after_mean"))
      add_clipped_mean(model_, std::count(selected.begin(), selected.end(), 1), clipping_of(plan_), sink);
    else if (model_.execution().recompute_layers)
      outcomes = accumulate_streamed(selected, sink);
    else
      route_->accumulate(model::collect_records(model_), selected, clipping_of(plan_), sink, outcomes);
  }
  if (losses_out != nullptr) *losses_out = std::move(losses);
  return outcomes;
}

std::vector<kernels::ExampleOutcome> Clipper::accumulate_streamed(std::span<const uint8_t> selected,
                                                                  kernels::ContributionSink& sink) {
  kernels::StreamedRoute route(static_cast<int64_t>(selected.size()), constant_work_);
  model::visit_records(model_, [&](const kernels::GradientRecords& part) { route.measure(part, selected); });
  const auto outcomes = route.settle(selected, clipping_of(plan_));
  model::visit_records(model_,
                       [&](const kernels::GradientRecords& part) { route.add(part, outcomes, sink); });
  route.check_added(outcomes);
  return outcomes;
}

}  // namespace dpfa::privacy
