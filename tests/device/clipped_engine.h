// A step on the CPU with all that it needs, and the settings that its tests run through.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <vector>

#include "src/device/clipped_step.h"
#include "src/device/library_kernels.h"
#include "tests/device/host_kernels.h"
#include "tests/device/step_access.h"
#include "tests/support/engine_oracle.h"

namespace dpfa::device {

using test::ClippedStepAccess;
using test::Example;

inline constexpr int64_t kVocab = 61, kTokens = 18;
inline constexpr int64_t kPoisoned =
    5;  // the token whose embedding row tests make non-finite; in example 6 alone
inline const StreamKey kKey({1, 2, 3, 4, 5, 6, 7, 8});
inline constexpr kernels::AdamwStep kAdamw = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1};

inline std::vector<Example> made_examples() {
  std::vector<Example> examples = {
      test::random_example(1, kTokens, kVocab),    test::repeated_example(7, kTokens),
      test::padded_example(2, 9, kTokens, kVocab), test::padded_example(3, 1, kTokens, kVocab),
      test::without_targets(4, kTokens, kVocab),   test::random_example(5, kTokens, kVocab),
      test::random_example(6, kTokens, kVocab)};
  for (Example& example : examples)
    for (int64_t& id : example.ids) id = id == kPoisoned ? kPoisoned + 1 : id;
  examples.back().ids[0] = kPoisoned;
  return examples;
}
inline const std::vector<Example> kExamples = made_examples();

struct Setting {
  at::ScalarType compute = at::kDouble;
  bool tied = true;
  NormChoice norms = NormChoice::kGram;
  double max_grad_norm = 1;
  bool ragged = false;
  double weight_scale = 3;
  double stddev = 0;
  bool library = false;  // with LibTorch's operations in place of loops
  bool recompute = false;
  MethodSettings methods = {};  // but for norms
  kernels::ClipRule clip_rule = kernels::ClipRule::kFlat;
};

inline std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << c10::toString(s.compute) << (s.tied ? ", tied" : ", untied") << ", method "
             << static_cast<int>(s.norms) << (s.library ? ", LibTorch" : "") << (s.ragged ? ", ragged" : "")
             << (s.recompute ? ", recomputed" : "") << ", C = " << s.max_grad_norm
             << (s.clip_rule == kernels::ClipRule::kAutomatic ? ", automatic" : "");
}

inline plan::Gpt2Shape tiny_shape(bool tied) {
  return {.layers = 2, .width = 16, .heads = 2, .positions = kTokens + 2, .vocab = kVocab, .tied_head = tied};
}

// Model, kernels and step of one setting.
class Engine {
 public:
  explicit Engine(const Setting& s) : Engine(s, tiny_shape(s.tied), {}) {}
  Engine(const Setting& s, const plan::Gpt2Shape& model_shape, std::vector<float> weights)
      : setting(s),
        shape(model_shape),
        initial(weights.empty() ? test::made_parameters(shape, s.weight_scale) : std::move(weights)),
        grid_exponent(static_cast<int>(std::ceil(std::log2(s.max_grad_norm))) - 22),
        parameters(initial, s.compute, at::kCPU),
        model(shape, s.compute, at::kCPU, s.recompute),
        host(test::make_host_kernels(element_of(s.compute),
                                     model::decay_ranges(model::gpt2_parameters(shape)), &calls)),
        library(make_library_kernels(s.compute, at::kCPU, *host)),
        step({s.max_grad_norm, grid_exponent, {s.stddev}, 4, methods_of(s), s.clip_rule}, model,
             s.library ? *library : *host, parameters) {
    model.bind(parameters.compute);
  }

  void accumulate(std::span<const Example> examples, std::span<const int64_t> which, int64_t slots,
                  int64_t tokens = kTokens) {
    const data::Microbatch packed = test::pack(examples, which, slots, tokens);
    std::vector<double> weights(slots);
    model::Batch batch{slots, tokens, packed.input_ids, packed.targets, {}, packed.records};
    for (size_t k = 0; k < which.size(); ++k) weights[k] = examples[which[k]].weight();
    batch.loss_weights = weights;
    for (int64_t b = 0; setting.ragged && b < slots; ++b) {
      int64_t length = tokens;
      while (length > 0 && packed.targets[b * tokens + length - 1] < 0) --length;
      batch.lengths.push_back(length);
    }
    step.accumulate(batch);
  }
  static MethodSettings methods_of(const Setting& s) {
    MethodSettings methods = s.methods;
    methods.norms = s.norms;
    return methods;
  }
  std::vector<int64_t> sum() const { return ClippedStepAccess::sum(step); }
  double grid() const { return std::ldexp(1.0, grid_exponent); }
  // Norm of the sum, and how far rounding to the grid may have moved it.
  double norm() const { return test::l2(std::span<const int64_t>(sum())) * grid(); }
  double rounding() const { return 0.5 * std::sqrt(static_cast<double>(initial.size())) * grid(); }

  Setting setting;
  plan::Gpt2Shape shape;
  std::vector<float> initial;
  int grid_exponent;
  test::KernelCalls calls;
  Parameters parameters;
  Gpt2 model;
  std::unique_ptr<kernels::ExampleKernels> host, library;
  ClippedStep step;
};

inline std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const at::ScalarType compute : {at::kDouble, at::kFloat, at::kBFloat16})
    for (const bool tied : {true, false})
      for (const NormChoice norms : {NormChoice::kGram, NormChoice::kDirect, NormChoice::kMaterialise})
        for (const bool ragged : {false, true}) {
          all.push_back({.compute = compute, .tied = tied, .norms = norms, .ragged = ragged});
          if (ragged) {
            all.push_back(all.back());
            all.back().recompute = true;
          }
          if (norms == NormChoice::kGram) continue;
          all.push_back(all.back());
          all.back().library = true;
        }
  return all;
}

inline const int64_t kSome[] = {0, 1, 2, 4, 3};

}  // namespace dpfa::device
