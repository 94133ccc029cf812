#include "src/train/step_bench.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "src/privacy/clipper.h"
#include "src/privacy/privatizer.h"
#include "src/train/baseline_gradient.h"
#include "src/train/optimizer.h"
#include "src/train/tuning.h"

namespace dpfa::train {
namespace {

constexpr double kLearningRate = 1e-6;  // keeps the weights, and so the work of a step, as they are

plan::PrivacyPlan made_up_plan(const StepBenchSpec& spec) {
  plan::PrivacyConfig privacy;
  privacy.noise_multiplier = 1;
  privacy.target_delta = 1e-6;
  privacy.expected_batch_size = static_cast<double>(spec.batch);
  privacy.dataset_size = 100000;
  privacy.steps = 1000;
  privacy.numerics = spec.numerics;
  return plan::PrivacyPlan::derive(privacy, {}, spec.shape.parameter_count());
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

struct StepBench::State {
  explicit State(const StepBenchSpec& bench)
      : spec(bench),
        plan(made_up_plan(bench)),
        model(bench.shape, bench.compute == "bf16" ? at::kBFloat16 : at::kFloat),
        weights(bench.shape.parameter_count()),
        communicator(comm::make_self_communicator()),
        ledger(accounting::Ledger::in_memory({{"plan", plan.to_json()},
                                              {"plan_digest", plan.digest()},
                                              {"private", true},
                                              {"stamps", {"benchmark"}}})),
        root(RootKey::from_insecure_seed(1)) {
    model::initialise_gpt2(bench.shape, root.stream(Purpose::kInit), weights.span());
    model.bind(weights.span());
  }

  std::vector<data::Microbatch> microbatches_of(int64_t slots) const {
    std::vector<data::Microbatch> microbatches;
    for (int64_t first = 0; first < spec.batch; first += slots)
      microbatches.push_back(data::made_up_microbatch(std::min(slots, spec.batch - first), spec.sequence,
                                                      spec.shape.vocab, first));
    return microbatches;
  }
  int64_t slots() const { return spec.slots > 0 ? spec.slots : spec.batch; }

  StepBenchSpec spec;
  plan::PrivacyPlan plan;
  model::Gpt2 model;
  FlatBuffer<float> weights;
  std::unique_ptr<comm::Communicator> communicator;
  accounting::Ledger ledger;
  RootKey root;
  int64_t step = 0;

  struct Private {
    explicit Private(State& s)
        : clipper(s.plan, s.model, norm_methods({}, s.spec.sequence)),
          privatizer(s.plan, *s.communicator, s.ledger, s.root.stream(Purpose::kNoise)),
          slots(!s.spec.tests_slots || clipper.self_test(s.slots(), s.spec.sequence) ? s.slots() : 1),
          microbatches(s.microbatches_of(slots)) {}
    privacy::Clipper clipper;
    privacy::Privatizer privatizer;
    int64_t slots;
    std::vector<data::Microbatch> microbatches;
    std::optional<Optimizer<privacy::NoisyGradient>> optimizer;
    std::optional<privacy::NoisyGradient> spent;
    std::optional<privacy::ClippedSum> sum;  // without a release: one sum that goes on growing
  };
  struct Baseline {
    explicit Baseline(const State& s)
        : gradient(s.spec.shape.parameter_count()), microbatches(s.microbatches_of(s.slots())) {}
    BaselineGradient gradient;
    std::vector<data::Microbatch> microbatches;
    model::BatchProducts products = model::BatchProducts::kWhole;
    std::optional<Optimizer<BaselineGradient>> optimizer;
  };
  double release_seconds = 0;
  std::optional<Private> with_privacy;
  std::optional<Baseline> without;
};

StepBench::StepBench(const StepBenchSpec& spec, bool with_private, bool without_privacy)
    : state_(std::make_unique<State>(spec)) {
  State& s = *state_;
  const auto parameters = model::gpt2_parameters(spec.shape);
  const plan::OptimizerConfig adamw;
  if (with_private) {
    s.with_privacy.emplace(s);
    if (spec.release) s.with_privacy->optimizer.emplace(adamw, parameters);
  }
  if (without_privacy) {
    s.without.emplace(s);
    if (spec.release) s.without->optimizer.emplace(adamw, parameters);
    s.without->products = spec.products.value_or(model::BatchProducts::kWhole);
    if (!spec.products) choose_products();
  }
}

StepBench::~StepBench() = default;

void StepBench::choose_products() {
  model::BatchProducts& products = state_->without->products;
  double seconds[2];
  for (int run = 0; run < 2; ++run)  // the first touches the memory
    for (const auto way : {model::BatchProducts::kWhole, model::BatchProducts::kPanels}) {
      products = way;
      seconds[way == model::BatchProducts::kPanels] = baseline_seconds();
    }
  if (seconds[0] <= seconds[1]) products = model::BatchProducts::kWhole;
}

int64_t StepBench::private_slots() const { return state_->with_privacy->slots; }

model::BatchProducts StepBench::baseline_products() const { return state_->without->products; }

double StepBench::private_seconds() {
  State& s = *state_;
  State::Private& p = *s.with_privacy;
  double microbatches = 0;
  const auto add_microbatches = [&](privacy::ClippedSum& sum) {
    microbatches = seconds_of([&] {
      for (const auto& microbatch : p.microbatches) p.clipper.accumulate(microbatch, nullptr, sum);
    });
  };
  const double all = seconds_of([&] {
    if (!s.spec.release) {
      if (!p.sum) p.sum = p.clipper.zero();
      add_microbatches(*p.sum);
      return;
    }
    privacy::ClippedSum sum = p.clipper.zero(std::move(p.spent));
    p.spent.reset();
    add_microbatches(sum);
    privacy::NoisyGradient gradient = p.privatizer.release(std::move(sum), s.step, p.privatizer.next_draw());
    ++s.step;
    p.optimizer->apply(gradient, kLearningRate, s.weights.span(), s.model.bf16_weights());
    p.spent = std::move(gradient);
  });
  s.release_seconds = all - microbatches;
  return all;
}

double StepBench::release_seconds() const { return state_->release_seconds; }

double StepBench::baseline_seconds() {
  State& s = *state_;
  State::Baseline& b = *s.without;
  return seconds_of([&] {
    for (const auto& microbatch : b.microbatches) {
      std::vector<double> losses(microbatch.slots);
      const std::vector<double> weights = privacy::loss_weights(microbatch, s.plan.loss());
      s.model.forward(privacy::to_batch(microbatch, weights, /*skips_padding=*/true), nullptr,
                      /*for_backward=*/true, losses);
      model::add_batch_gradient(s.model, /*overwrite=*/&microbatch == b.microbatches.data(), b.gradient.sum(),
                                b.products);
    }
    if (b.optimizer) b.optimizer->apply(b.gradient, kLearningRate, s.weights.span(), s.model.bf16_weights());
  });
}

}  // namespace dpfa::train
