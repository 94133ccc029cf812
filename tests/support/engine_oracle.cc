#include "tests/support/engine_oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace dpfa::test {
namespace {

// The textbook forward pass of one sequence; `p` in the order of gpt2_parameters().
at::Tensor forward_loss(const plan::Gpt2Shape& shape, const std::vector<at::Tensor>& p,
                        const Example& example) {
  const int64_t tokens = static_cast<int64_t>(example.ids.size()), c = shape.width, heads = shape.heads;
  const at::Tensor ids = at::tensor(example.ids), targets = at::tensor(example.targets);
  const at::Tensor mask = at::ones({tokens, tokens}, at::kBool).triu(1);
  at::Tensor x = at::embedding(p[0], ids) + p[1].narrow(0, 0, tokens);
  size_t i = 2;
  for (int64_t l = 0; l < shape.layers; ++l, i += 12) {
    at::Tensor normed = at::layer_norm(x, {c}, p[i], p[i + 1], 1e-5);
    const at::Tensor qkv = (at::matmul(normed, p[i + 2]) + p[i + 3]).view({tokens, 3, heads, c / heads});
    const auto part = [&](int64_t k) { return qkv.select(1, k).transpose(0, 1); };
    at::Tensor scores =
        at::matmul(part(0), part(1).transpose(1, 2)) / std::sqrt(static_cast<double>(c / heads));
    scores = scores.masked_fill(mask, -std::numeric_limits<double>::infinity());
    const at::Tensor attended =
        at::matmul(at::softmax(scores, -1), part(2)).transpose(0, 1).reshape({tokens, c});
    x = x + at::matmul(attended, p[i + 4]) + p[i + 5];
    normed = at::layer_norm(x, {c}, p[i + 6], p[i + 7], 1e-5);
    x = x + at::matmul(at::gelu(at::matmul(normed, p[i + 8]) + p[i + 9], "tanh"), p[i + 10]) + p[i + 11];
  }
  x = at::layer_norm(x, {c}, p[i], p[i + 1], 1e-5);
  const at::Tensor logits = at::matmul(x, (shape.tied_head ? p[0] : p[i + 2]).t());
  return example.weight() * at::cross_entropy_loss(logits, targets, {}, at::Reduction::Sum, data::kIgnored);
}

}  // namespace

int64_t Example::target_count() const {
  return std::count_if(targets.begin(), targets.end(), [](int64_t t) { return t >= 0; });
}
double Example::weight() const { return target_count() == 0 ? 0 : 1 / static_cast<double>(target_count()); }

OracleGradient oracle_gradient(const plan::Gpt2Shape& shape, std::span<const float> parameters,
                               const Example& example, at::ScalarType compute) {
  std::vector<at::Tensor> leaves;
  for (const model::ParameterInfo& info : model::gpt2_parameters(shape)) {
    leaves.push_back(at::from_blob(const_cast<float*>(parameters.data()) + info.offset, info.shape)
                         .to(compute, /*non_blocking=*/false, /*copy=*/true)
                         .set_requires_grad(true));
  }
  const at::Tensor loss = forward_loss(shape, leaves, example);
  loss.backward();
  OracleGradient result;
  result.loss = loss.item<double>();
  for (const at::Tensor& leaf : leaves) {
    const at::Tensor& grad = leaf.grad();
    const at::Tensor flat = grad.defined() ? grad.to(at::kDouble).reshape({-1}).contiguous()
                                           : at::zeros({leaf.numel()}, at::kDouble);
    result.gradient.insert(result.gradient.end(), flat.const_data_ptr<double>(),
                           flat.const_data_ptr<double>() + flat.numel());
  }
  result.norm = l2(std::span<const double>(result.gradient));
  return result;
}

std::vector<float> made_parameters(const plan::Gpt2Shape& shape, double scale) {
  std::vector<float> parameters(shape.parameter_count());
  model::initialise_gpt2(shape, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), parameters);
  for (float& w : parameters) w = static_cast<float>(scale * (w + 0.005));
  return parameters;
}

Example random_example(uint64_t seed, int64_t tokens, int64_t vocab) {
  std::mt19937_64 random(seed);
  Example example;
  for (int64_t t = 0; t < tokens; ++t) {
    example.ids.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(vocab)));
    example.targets.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(vocab)));
  }
  return example;
}

Example repeated_example(int64_t token, int64_t tokens) {
  return {std::vector<int64_t>(tokens, token), std::vector<int64_t>(tokens, token)};
}

Example padded_example(uint64_t seed, int64_t length, int64_t tokens, int64_t vocab) {
  Example example = random_example(seed, tokens, vocab);
  std::fill(example.ids.begin() + length, example.ids.end(), 0);
  std::fill(example.targets.begin() + length, example.targets.end(), data::kIgnored);
  return example;
}

Example without_targets(uint64_t seed, int64_t tokens, int64_t vocab) {
  Example example = random_example(seed, tokens, vocab);
  std::fill(example.targets.begin(), example.targets.end(), data::kIgnored);
  return example;
}

data::Microbatch pack(std::span<const Example> examples, std::span<const int64_t> which, int64_t slots,
                      int64_t tokens) {
  data::Microbatch out;
  out.slots = slots;
  out.tokens = tokens;
  out.input_ids.assign(slots * tokens, 0);
  out.targets.assign(slots * tokens, data::kIgnored);
  out.records.assign(slots, -1);
  out.target_counts.assign(slots, 0);
  for (size_t slot = 0; slot < which.size(); ++slot) {
    const Example& example = examples[which[slot]];
    std::copy(example.ids.begin(), example.ids.end(), out.input_ids.begin() + slot * tokens);
    std::copy(example.targets.begin(), example.targets.end(), out.targets.begin() + slot * tokens);
    out.records[slot] = which[slot] + 1;
    out.target_counts[slot] = example.target_count();
  }
  return out;
}

plan::PrivacyPlan make_plan(const PlanChoice& choice, int64_t parameters) {
  plan::PrivacyConfig config;
  config.numerics = choice.numerics;
  config.max_grad_norm = choice.max_grad_norm;
  config.clipping = choice.clipping;
  config.noise_multiplier = choice.noise_multiplier;
  config.expected_batch_size = choice.expected_batch_size;
  config.sample_rate = 0.1;
  config.target_delta = 1e-5;
  config.steps = choice.steps;
  return plan::PrivacyPlan::derive(config, {}, parameters);
}

}  // namespace dpfa::test
