#include "src/train/tuning.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <vector>

namespace dpfa::train {
namespace {

constexpr double kWorthIt = 0.97;  // a larger microbatch must save at least 3 %: it costs memory and padding

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The less of two runs after one that touches the memory.
double seconds_per_example(privacy::Clipper& clipper, int64_t parameters,
                           const data::Microbatch& microbatch) {
  FlatBuffer<int32_t> sum(parameters);
  const auto run = [&] {
    kernels::IntegerSink sink(sum.span(), /*grid_exponent=*/0);
    clipper.accumulate_into(microbatch, nullptr, sink);
  };
  run();
  return std::min(seconds_of(run), seconds_of(run)) / static_cast<double>(microbatch.slots);
}

// Bytes of activations and kept gradients per slot (gpt2.cc's workspace), 4 bytes each at most.
double activation_bytes(const plan::Gpt2Shape& s, int64_t tokens) {
  return 4.0 * static_cast<double>(tokens) *
         static_cast<double>(s.layers * s.width * 26 + s.width * 8 + s.vocab);
}

}  // namespace

std::string faster_numerics(const plan::Config& config, model::Gpt2& model, int64_t context) {
  const data::Microbatch microbatch = data::made_up_microbatch(
      config.runtime.microbatch_size > 0 ? config.runtime.microbatch_size : 4, context, model.shape().vocab);
  double seconds[2];
  for (const std::string numerics : {"exact", "fp32"}) {
    plan::PrivacyConfig privacy = config.privacy;
    privacy.numerics = numerics;
    const auto plan = plan::PrivacyPlan::derive(privacy, {}, model.shape().parameter_count());
    privacy::Clipper clipper(plan, model, norm_methods(config.runtime, context),
                             config.runtime.constant_step_slots);
    seconds[numerics == "fp32"] = seconds_per_example(clipper, model.shape().parameter_count(), microbatch);
  }
  return seconds[1] < seconds[0] ? "fp32" : "exact";
}

kernels::NormMethodChoice norm_methods(const plan::RuntimeConfig& runtime, int64_t context,
                                       std::function<void(const std::string&)> log) {
  return {.method = runtime.norm_method,
          .tokens = context,
          .budget_bytes = runtime.norm_memory_mib << 20,
          .file = kernels::default_method_file(),
          .log = std::move(log)};
}

bool may_share_passes(privacy::Clipper& clipper, int64_t slots, int64_t context, double dropout_rate,
                      const std::function<void()>& before_pass) {
  if (clipper.self_test(slots, context, dropout_rate, before_pass)) return true;
  std::cerr << "self-test: in passes of " << slots
            << " records the numbers of a record depend on its place, so this rank takes fewer per pass\n";
  return false;
}

int64_t best_microbatch_size(const plan::PrivacyPlan& plan, const plan::Config& config, model::Gpt2& model,
                             int64_t context, int64_t largest) {
  const double memory =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  const plan::Gpt2Shape& shape = model.shape();
  privacy::Clipper clipper(plan, model, norm_methods(config.runtime, context));
  int64_t best = 1;
  double best_seconds = seconds_per_example(clipper, shape.parameter_count(),
                                            data::made_up_microbatch(1, context, shape.vocab));
  for (int64_t slots = 2; slots <= largest; slots *= 2) {
    if (static_cast<double>(slots) * activation_bytes(shape, context) > memory / 4) break;
    const double seconds = seconds_per_example(clipper, shape.parameter_count(),
                                               data::made_up_microbatch(slots, context, shape.vocab));
    if (seconds > kWorthIt * best_seconds) break;
    if (plan.is_private() && !may_share_passes(clipper, slots, context, config.model.dropout)) break;
    best = slots;
    best_seconds = seconds;
  }
  return best;
}

}  // namespace dpfa::train
