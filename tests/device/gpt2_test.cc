// The model on LibTorch's operations against autograd on one example at a time and against the CPU's model.
#include "src/device/gpt2.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/norm_route.h"
#include "kernels/reducers.h"
#include "src/device/batch_step.h"
#include "tests/support/engine_oracle.h"

namespace dpfa::device {
namespace {

using test::Example;

constexpr int64_t kVocab = 97, kTokens = 33;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

plan::Gpt2Shape tiny_shape(bool tied) {
  return {.layers = 2, .width = 24, .heads = 3, .positions = 40, .vocab = kVocab, .tied_head = tied};
}

std::vector<Example> made_examples() {
  std::vector<Example> examples = {
      test::random_example(11, kTokens, kVocab), test::repeated_example(7, kTokens),
      test::padded_example(12, 9, kTokens, kVocab), test::without_targets(13, kTokens, kVocab)};
  examples[0].targets[0] = data::kIgnored;
  return examples;
}

// The records of a backward pass, as the CPU's routes take them: contiguous, vectors reduced by the CPU.
class Records final : public model::GradientVisitor {
 public:
  explicit Records(std::span<const int64_t> offsets) {
    records.offsets.assign(offsets.begin(), offsets.end());
  }
  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    records.linears.push_back(record);
    at::Tensor& g = records.linears.back().output_gradient;
    g = g.contiguous();
    if (bias_offset) records.vectors.push_back({kernels::bias_gradient(g, records.offsets), *bias_offset});
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    const auto [gain, shift] = kernels::layer_norm_gradient(g, x, mean, rstd, records.offsets);
    records.vectors.push_back({gain, gain_offset});
    records.vectors.push_back({shift, shift_offset});
  }
  void embedding(const kernels::EmbeddingRecord& record) override { records.embeddings.push_back(record); }

  kernels::GradientRecords records;
};

// One pass over `examples` and each example's own gradient.
struct Pass {
  std::vector<double> losses;
  std::vector<std::vector<double>> gradients;

  // ragged: rows behind an example's last target do not exist.
  Pass(const plan::Gpt2Shape& shape, std::span<const float> weights, at::ScalarType compute,
       const std::vector<Example>& examples, bool ragged, int64_t slots) {
    std::vector<int64_t> which(examples.size());
    for (size_t b = 0; b < which.size(); ++b) which[b] = static_cast<int64_t>(b);
    const data::Microbatch packed = test::pack(examples, which, slots, kTokens);
    std::vector<double> loss_weights(slots);
    model::Batch batch{slots, kTokens, packed.input_ids, packed.targets, {}, packed.records};
    for (int64_t b = 0; b < slots; ++b) {
      const bool is_used = b < static_cast<int64_t>(examples.size());
      if (is_used) loss_weights[b] = examples[b].weight();
      int64_t length = is_used ? kTokens : 0;
      while (length > 0 && examples[b].targets[length - 1] < 0) --length;
      if (ragged) batch.lengths.push_back(length);
    }
    batch.loss_weights = loss_weights;
    Gpt2 model(shape, compute, at::kCPU);
    const at::Tensor flat =
        at::from_blob(const_cast<float*>(weights.data()), {static_cast<int64_t>(weights.size())}).to(compute);
    model.bind(flat);
    const at::Tensor got = model.forward(batch, /*for_backward=*/true);
    losses.assign(got.const_data_ptr<double>(), got.const_data_ptr<double>() + slots);
    Records visitor(model.offsets());
    model.backward(visitor);
    for (int64_t b = 0; b < slots; ++b) {
      gradients.emplace_back(weights.size());
      kernels::DoubleSink sink(gradients.back());
      std::vector<uint8_t> selected(slots);
      selected[b] = 1;
      std::vector<kernels::ExampleOutcome> outcomes(slots);
      kernels::make_exact_route()->accumulate(visitor.records, selected, 1e30, sink, outcomes);
    }
  }
};

double distance(std::span<const double> a, std::span<const double> b) {
  std::vector<double> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return test::l2(std::span<const double>(difference));
}

TEST(DeviceGpt2, LossesAndGradientsOfEveryTensorAreTheOracles) {
  for (const bool tied : {true, false})
    for (const bool ragged : {true, false})
      for (const auto& [compute, own, whole] :
           {std::tuple{at::kDouble, 1e-10, 1e-14}, std::tuple{at::kFloat, 1e-3, 1e-6}}) {
        const plan::Gpt2Shape shape = tiny_shape(tied);
        const std::vector<float> weights = test::made_parameters(shape);
        const std::vector<Example> examples = made_examples();
        const Pass pass(shape, weights, compute, examples, ragged, 4);
        for (size_t b = 0; b < examples.size(); ++b) {
          SCOPED_TRACE(std::string(c10::toString(compute)) + (tied ? ", tied" : "") +
                       (ragged ? ", ragged" : "") + ", example " + std::to_string(b));
          const test::OracleGradient oracle = test::oracle_gradient(shape, weights, examples[b]);
          EXPECT_NEAR(pass.losses[b], oracle.loss, own * 1e-2 * std::max(1.0, oracle.loss));
          for (const model::ParameterInfo& p : model::gpt2_parameters(shape)) {
            const auto expected = std::span<const double>(oracle.gradient).subspan(p.offset, p.size);
            const auto got = std::span<const double>(pass.gradients[b]).subspan(p.offset, p.size);
            EXPECT_LE(distance(got, expected), own * test::l2(expected) + whole * oracle.norm) << p.name;
          }
        }
      }
}

TEST(DeviceGpt2, AgreesWithTheModelOfTheCpu) {
  for (const bool tied : {true, false})
    for (const auto& [compute, tolerance] : {std::tuple{at::kDouble, 1e-12}, std::tuple{at::kFloat, 1e-5}}) {
      const plan::Gpt2Shape shape = tiny_shape(tied);
      const std::vector<float> weights = test::made_parameters(shape);
      const std::vector<Example> examples = made_examples();
      const Pass pass(shape, weights, compute, examples, /*ragged=*/false, 4);
      const int64_t all[] = {0, 1, 2, 3};
      const data::Microbatch packed = test::pack(examples, all, 4, kTokens);
      std::vector<double> loss_weights, losses(4);
      for (const Example& example : examples) loss_weights.push_back(example.weight());
      model::Gpt2 cpu(shape, compute);
      cpu.bind(weights);
      cpu.forward({4, kTokens, packed.input_ids, packed.targets, loss_weights, packed.records}, nullptr,
                  /*for_backward=*/true, losses);
      const kernels::GradientRecords records = model::collect_records(cpu);
      for (size_t b = 0; b < 4; ++b) {
        std::vector<double> expected(weights.size());
        kernels::DoubleSink sink(expected);
        std::vector<uint8_t> selected(4);
        selected[b] = 1;
        std::vector<kernels::ExampleOutcome> outcomes(4);
        kernels::make_exact_route()->accumulate(records, selected, 1e30, sink, outcomes);
        EXPECT_NEAR(pass.losses[b], losses[b], tolerance * (1 + losses[b]));
        EXPECT_LE(distance(pass.gradients[b], expected), tolerance * outcomes[b].norm) << "example " << b;
      }
    }
}

// Rows of padding, empty slots and examples without targets: exact zeros, whatever stands in their rows.
TEST(DeviceGpt2, PaddingAndEmptySlotsContributeExactlyNothing) {
  for (const at::ScalarType compute : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const plan::Gpt2Shape shape = tiny_shape(false);
    const std::vector<float> weights = test::made_parameters(shape);
    std::vector<Example> examples = made_examples();
    const Pass pass(shape, weights, compute, examples, /*ragged=*/false, 6);
    for (const size_t b : {3, 4, 5}) {
      EXPECT_EQ(pass.losses[b], 0);
      EXPECT_EQ(test::l2(std::span<const double>(pass.gradients[b])), 0) << "slot " << b;
    }
    std::fill(examples[2].ids.begin() + 9, examples[2].ids.end(), 5);
    const Pass other(shape, weights, compute, examples, /*ragged=*/false, 6);
    EXPECT_EQ(other.losses[2], pass.losses[2]);
    EXPECT_EQ(other.gradients[2], pass.gradients[2]) << "what padding holds is seen";
  }
}

TEST(DeviceGpt2, ANonFiniteExampleTouchesNoOther) {
  const plan::Gpt2Shape shape = tiny_shape(false);
  std::vector<float> weights = test::made_parameters(shape);
  const std::vector<Example> examples = made_examples();
  const Pass clean(shape, weights, at::kFloat, examples, false, 4);
  weights[7 * shape.width + 3] = kNan;  // the repeated token: in example 1; elsewhere where it was drawn
  const Pass poisoned(shape, weights, at::kFloat, examples, false, 4);
  EXPECT_TRUE(std::isnan(poisoned.losses[1]));
  int untouched = 0;
  for (const size_t b : {0, 2}) {
    if (std::count(examples[b].ids.begin(), examples[b].ids.end(), 7) > 0) continue;
    ++untouched;
    EXPECT_EQ(poisoned.losses[b], clean.losses[b]);
    EXPECT_EQ(poisoned.gradients[b], clean.gradients[b]) << "example " << b;
  }
  EXPECT_GT(untouched, 0);
}

TEST(DeviceGpt2, RecomputedLayersGiveTheSameRecordsAgainAndAgain) {
  for (const at::ScalarType compute : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const plan::Gpt2Shape shape = tiny_shape(true);
    const std::vector<float> weights = test::made_parameters(shape);
    const std::vector<Example> examples = made_examples();
    const int64_t all[] = {0, 1, 2, 3};
    const data::Microbatch packed = test::pack(examples, all, 4, kTokens);
    const std::vector<double> loss_weights(4, 0.1);
    const at::Tensor flat =
        at::from_blob(const_cast<float*>(weights.data()), {shape.parameter_count()}).to(compute);
    std::vector<kernels::GradientRecords> passes;
    for (const bool recompute : {false, true}) {
      Gpt2 model(shape, compute, at::kCPU, recompute);
      model.bind(flat);
      model.forward({4, kTokens, packed.input_ids, packed.targets, loss_weights, packed.records}, true);
      for (int pass = 0; pass < (recompute ? 2 : 1); ++pass) {
        Records visitor(model.offsets());
        model.backward(visitor);
        for (kernels::LinearRecord& linear : visitor.records.linears) {
          linear.input = linear.input.clone();
          linear.output_gradient = linear.output_gradient.clone();
        }
        passes.push_back(visitor.records);
      }
    }
    for (const size_t pass : {1, 2}) {
      ASSERT_EQ(passes[pass].linears.size(), passes[0].linears.size());
      for (size_t k = 0; k < passes[0].linears.size(); ++k) {
        EXPECT_TRUE(passes[pass].linears[k].input.equal(passes[0].linears[k].input)) << k;
        EXPECT_TRUE(passes[pass].linears[k].output_gradient.equal(passes[0].linears[k].output_gradient)) << k;
      }
      ASSERT_EQ(passes[pass].vectors.size(), passes[0].vectors.size());
      for (size_t k = 0; k < passes[0].vectors.size(); ++k)
        EXPECT_TRUE(passes[pass].vectors[k].per_example.equal(passes[0].vectors[k].per_example)) << k;
      EXPECT_TRUE(passes[pass].embeddings.at(0).row_gradient.equal(passes[0].embeddings.at(0).row_gradient));
    }
  }
}

TEST(DeviceGpt2, NoExamplesAndNoTokensGiveNoLoss) {
  const plan::Gpt2Shape shape = tiny_shape(true);
  const std::vector<float> weights = test::made_parameters(shape);
  Gpt2 model(shape, at::kFloat, at::kCPU);
  model.bind(at::from_blob(const_cast<float*>(weights.data()), {shape.parameter_count()}));
  EXPECT_EQ(model.forward({}, true).numel(), 0);
  const std::vector<double> zeros = {0, 0};
  const std::vector<int64_t> records = {1, 2};
  EXPECT_EQ(model.forward({2, 0, {}, {}, zeros, records}, true).abs().sum().item<double>(), 0);
  EXPECT_EQ(model.offsets().back(), 0);
}

// The step without privacy: the sum of the oracles' gradients, and AdamW of kernels/optimizer_step.h.
TEST(DeviceBatchStep, UpdatesByTheMeanOfTheGradients) {
  for (const bool tied : {true, false}) {
    const plan::Gpt2Shape shape = tiny_shape(tied);
    const std::vector<float> weights = test::made_parameters(shape);
    const std::vector<Example> examples = made_examples();
    const int64_t all[] = {0, 1, 2, 3};
    const data::Microbatch packed = test::pack(examples, all, 4, kTokens);
    std::vector<double> loss_weights, expected(weights.size());
    for (const Example& example : examples) {
      loss_weights.push_back(example.weight());
      const auto oracle = test::oracle_gradient(shape, weights, example);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += oracle.gradient[i];
    }
    Gpt2 model(shape, at::kFloat, at::kCPU);
    Parameters parameters(weights, at::kFloat, at::kCPU);
    model.bind(parameters.compute);
    BatchStep step(model, parameters);
    const model::Batch batch{4, kTokens, packed.input_ids, packed.targets, loss_weights, packed.records};
    for (const double times : {1.0, 2.0}) {
      step.accumulate(batch);
      const at::Tensor got = step.gradient().to(at::kDouble).div(times);
      EXPECT_LE(distance({got.const_data_ptr<double>(), expected.size()}, expected),
                1e-5 * test::l2(std::span<const double>(expected)))
          << tied << ", times " << times;
    }
    const kernels::AdamwStep adamw = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1};
    std::vector<float> m(weights.size()), v(weights.size()), after(weights), mean(weights.size());
    for (size_t i = 0; i < mean.size(); ++i) mean[i] = step.gradient().const_data_ptr<float>()[i] / 8;
    kernels::adamw_step(adamw, model::decay_ranges(model::gpt2_parameters(shape)),
                        [&](int64_t begin, std::span<float>) { return mean.data() + begin; }, m, v, after,
                        {});
    step.update(adamw, 8);
    for (size_t i = 0; i < after.size(); ++i)
      ASSERT_NEAR(parameters.weights.const_data_ptr<float>()[i], after[i], 1e-6) << i;
  }
}

}  // namespace
}  // namespace dpfa::device
