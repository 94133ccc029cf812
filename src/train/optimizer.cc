#include "src/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "src/base/check.h"
#include "src/privacy/noisy_gradient.h"
#include "src/train/baseline_gradient.h"

namespace dpfa::train {
namespace {

void check_unused(const privacy::NoisyGradient& gradient) {
  DPFA_CHECK(!gradient.any_taken(), "applied twice");
}
void check_unused(const BaselineGradient&) {}

const float* chunk_of(privacy::NoisyGradient& gradient, int64_t begin, std::span<float> scratch) {
  gradient.take(begin, scratch);
  return scratch.data();
}
const float* chunk_of(BaselineGradient& gradient, int64_t begin, std::span<float>) {
  return gradient.sum().data() + begin;
}

}  // namespace

double learning_rate(const plan::OptimizerConfig& config, int64_t step, int64_t steps) {
  const double t = static_cast<double>(step), warmup = static_cast<double>(config.warmup_steps);
  if (t < warmup) return config.learning_rate * (t + 1) / warmup;
  if (config.schedule == "constant") return config.learning_rate;
  const double span = std::max(1.0, static_cast<double>(steps) - warmup);
  const double progress = std::min(1.0, (t - warmup) / span);
  const double floor = config.final_learning_rate_ratio;
  return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

OptimizerState make_optimizer_state(const plan::OptimizerConfig& config, int64_t parameters) {
  const bool adamw = config.name == "adamw";
  DPFA_CHECK(adamw || config.name == "sgd", config.name);
  OptimizerState state;
  if (adamw || config.momentum != 0) state.first = FlatBuffer<float>(parameters);
  if (adamw) state.second = FlatBuffer<float>(parameters);
  return state;
}

template <typename Gradient>
Optimizer<Gradient>::Optimizer(const plan::OptimizerConfig& config,
                               const std::vector<model::ParameterInfo>& parameters)
    : Optimizer(config, parameters,
                make_optimizer_state(config, parameters.back().offset + parameters.back().size)) {}

template <typename Gradient>
Optimizer<Gradient>::Optimizer(const plan::OptimizerConfig& config,
                               const std::vector<model::ParameterInfo>& parameters, OptimizerState state)
    : config_(config), ranges_(model::decay_ranges(parameters)), state_(std::move(state)) {}

template <typename Gradient>
void Optimizer<Gradient>::apply(Gradient& gradient, double rate, std::span<float> weights,
                                std::span<uint16_t> bf16_weights) {
  ++state_.updates;
  DPFA_CHECK(gradient.size() == static_cast<int64_t>(weights.size()));
  check_unused(gradient);
  const kernels::GradientChunk chunk = [&gradient](int64_t begin, std::span<float> scratch) {
    return chunk_of(gradient, begin, scratch);
  };
  if (config_.name == "adamw") {
    const kernels::AdamwStep step{
        rate, config_.beta1, config_.beta2, config_.epsilon, config_.weight_decay, state_.updates};
    kernels::adamw_step(step, ranges_, chunk, state_.first.span(), state_.second.span(), weights,
                        bf16_weights);
  } else {
    const kernels::SgdStep step{rate, config_.momentum, config_.weight_decay};
    kernels::sgd_step(step, ranges_, chunk, state_.first.span(), weights, bf16_weights);
  }
}

template class Optimizer<privacy::NoisyGradient>;
template class Optimizer<BaselineGradient>;

}  // namespace dpfa::train
