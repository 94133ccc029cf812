// What the tests of the engine compare with, and the made examples that they feed it.
//
// The oracle computes one example's gradient by another way than the engine: at:: operations and autograd on
// that example alone, nothing shared with kernels/ or src/model beyond the order of the parameters.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/data/microbatch.h"
#include "src/model/gpt2.h"
#include "src/plan/model_shape.h"
#include "src/plan/plan.h"

namespace dpfa::test {

struct OracleGradient {
  double loss = 0;
  double norm = 0;               // L2, over all parameters
  std::vector<double> gradient;  // (P)
};

// A record as the model sees it: ids and targets of equal length, targets negative where there is none.
struct Example {
  std::vector<int64_t> ids, targets;
  int64_t target_count() const;
  // Weight of each target under token_mean; 0 without targets.
  double weight() const;
};

// Loss weight() x sum of cross-entropies, computed in `compute` throughout.
OracleGradient oracle_gradient(const plan::Gpt2Shape& shape, std::span<const float> parameters,
                               const Example& example, at::ScalarType compute = at::kDouble);

// Parameters with every kind of tensor away from its neutral value: scale x (initialisation + 0.005).
std::vector<float> made_parameters(const plan::Gpt2Shape& shape, double scale = 3);

// Ids and targets from a fixed pseudo-random walk; different seeds give different examples.
Example random_example(uint64_t seed, int64_t tokens, int64_t vocab);
// One token, again and again, that predicts itself: the case where a tied table's two gradients add up.
Example repeated_example(int64_t token, int64_t tokens);
// `length` real tokens of random_example, then padding.
Example padded_example(uint64_t seed, int64_t length, int64_t tokens, int64_t vocab);
Example without_targets(uint64_t seed, int64_t tokens, int64_t vocab);

// The examples `which` of `examples` in slots 0, 1, ...; record id = index + 1; slots beyond them are empty.
data::Microbatch pack(std::span<const Example> examples, std::span<const int64_t> which, int64_t slots,
                      int64_t tokens);

struct PlanChoice {
  std::string numerics = "exact";
  double max_grad_norm = 1;
  std::string clipping = "flat";
  double noise_multiplier = 1;
  double expected_batch_size = 8;
  int64_t steps = 10;
};
plan::PrivacyPlan make_plan(const PlanChoice& choice, int64_t parameters);

// Square root of the sum of squares, in double.
template <typename T>
double l2(std::span<const T> values) {
  double sum = 0;
  for (const T& v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

}  // namespace dpfa::test
