// Times one training step of made-up tokens, private and not, with the engine and optimizer of real runs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "src/model/gpt2.h"
#include "src/plan/model_shape.h"

namespace dpfa::train {

struct StepBenchSpec {
  plan::Gpt2Shape shape;
  int64_t batch = 4;  // examples of the step
  int64_t slots = 0;  // examples of a microbatch; 0: all
  int64_t sequence = 256;
  std::string compute = "fp32";
  std::string numerics = "exact";
  bool release = true;  // with noise and optimizer; without: forward, backward and clipping alone
  // How the step without privacy forms the gradients of matrices; empty: the faster, by measurement.
  std::optional<model::BatchProducts> products = {};
  bool tests_slots = true;  // Clipper::self_test decides whether examples share a pass
};

class StepBench {
 public:
  // `with_private` and `without_privacy`: which of the two steps to make ready (memory is measured one at a
  // time).
  StepBench(const StepBenchSpec& spec, bool with_private, bool without_privacy);
  ~StepBench();
  double private_seconds();        // one step, wall clock
  double release_seconds() const;  // of the last private step: all of it but its microbatches
  double baseline_seconds();       // the same without clipping and noise
  // Slots of a microbatch of the private step: 1 where examples must not share a pass (Clipper::self_test).
  int64_t private_slots() const;
  model::BatchProducts baseline_products() const;

 private:
  void choose_products();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::train
