// SGD or AdamW over the flat parameter vector. `Gradient` is the one type that apply() takes: NoisyGradient
// in a private run, BaselineGradient in a run without privacy. An un-noised update of a private run does not
// compile.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/optimizer_step.h"
#include "src/base/flat_buffer.h"
#include "src/model/gpt2.h"
#include "src/plan/config.h"

namespace dpfa::train {

// The learning rate of step t (0-based) of T: linear warm-up, then constant or cosine to the final ratio.
double learning_rate(const plan::OptimizerConfig& config, int64_t step, int64_t steps);

// What a checkpoint keeps: f32 moments (P) each, empty where the rule has none, and the number of updates.
struct OptimizerState {
  FlatBuffer<float> first;
  FlatBuffer<float> second;
  int64_t updates = 0;
};

// That of no update yet, for P parameters.
OptimizerState make_optimizer_state(const plan::OptimizerConfig& config, int64_t parameters);

template <typename Gradient>
class Optimizer {
 public:
  Optimizer(const plan::OptimizerConfig& config, const std::vector<model::ParameterInfo>& parameters);
  // Goes on from `state`, which make_optimizer_state() made for this configuration.
  Optimizer(const plan::OptimizerConfig& config, const std::vector<model::ParameterInfo>& parameters,
            OptimizerState state);

  // Updates `weights` (P) and, where not empty, their bf16 copy. Uses the gradient up: see
  // NoisyGradient::take.
  void apply(Gradient& gradient, double rate, std::span<float> weights, std::span<uint16_t> bf16_weights);
  OptimizerState& state() { return state_; }
  const OptimizerState& state() const { return state_; }

 private:
  plan::OptimizerConfig config_;
  std::vector<kernels::DecayRange> ranges_;
  OptimizerState state_;
};

}  // namespace dpfa::train
