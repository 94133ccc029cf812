// The step's wiring, with kernels on host memory in double, against autograd on one example at a time.
#include "src/device/clipped_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "kernels/norm_route.h"
#include "src/base/error.h"
#include "src/model/gpt2_io.h"
#include "src/model/safetensors.h"
#include "tests/device/clipped_engine.h"

namespace dpfa::device {
namespace {

// Both rules make some of these gradients smaller and leave, or make, others larger.
void expect_norm_factor_and_sum_of_the_oracle(kernels::ClipRule rule) {
  const bool automatic = rule == kernels::ClipRule::kAutomatic;
  for (Setting s : settings()) {
    if (s.compute == at::kBFloat16) continue;
    s.max_grad_norm = 20;
    s.clip_rule = rule;
    Engine engine(s);
    engine.accumulate(kExamples, kSome, 6);
    std::vector<double> expected(engine.initial.size());
    int clipped = 0, whole = 0;
    const double tolerance = s.norms == NormChoice::kGram ? kernels::kGramSlack : 1e-5;
    double all = 0;
    for (int64_t b = 0; b < 6; ++b) {
      SCOPED_TRACE(::testing::Message() << s << ", slot " << b);
      if (b >= 5 || kExamples[kSome[b]].target_count() == 0) {
        EXPECT_EQ(ClippedStepAccess::factor(engine.step, b), 0);
        continue;
      }
      const auto oracle = test::oracle_gradient(engine.shape, engine.initial, kExamples[kSome[b]]);
      const double norm = ClippedStepAccess::norm(engine.step, b);
      EXPECT_GE(norm, oracle.norm * (1 - 1e-5));  // an upper bound
      EXPECT_LE(norm, oracle.norm * (1 + 1e-5));
      const double factor =
          automatic ? s.max_grad_norm / (oracle.norm + 0.01) : std::min(1.0, s.max_grad_norm / oracle.norm);
      ++(factor < 1 ? clipped : whole);
      EXPECT_NEAR(ClippedStepAccess::factor(engine.step, b), factor, tolerance * std::max(1.0, factor));
      all += factor * oracle.norm;
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += factor * oracle.gradient[i];
    }
    EXPECT_GT(clipped, 0);
    EXPECT_GT(whole, 0);
    std::vector<double> difference = expected;
    const std::vector<int64_t> sum = engine.sum();
    for (size_t i = 0; i < sum.size(); ++i) difference[i] -= static_cast<double>(sum[i]) * engine.grid();
    EXPECT_LE(test::l2(std::span<const double>(difference)), 1e-5 * all + 5 * engine.rounding()) << s;
    EXPECT_EQ(s.norms == NormChoice::kGram, engine.calls.gram > 0) << s;
    EXPECT_EQ(s.norms == NormChoice::kMaterialise && !s.library, engine.calls.kept > 0) << s;
    const int passes = s.recompute ? 2 : 1;
    EXPECT_EQ(engine.calls.counts["cross_terms"], s.tied && s.norms == NormChoice::kGram ? passes : 0) << s;
  }
}

TEST(ClippedStep, NormFactorAndSumAreTheOracles) {
  expect_norm_factor_and_sum_of_the_oracle(kernels::ClipRule::kFlat);
}
TEST(ClippedStep, NormFactorAndSumAreTheOraclesByTheAutomaticRule) {
  expect_norm_factor_and_sum_of_the_oracle(kernels::ClipRule::kAutomatic);
}

TEST(ClippedStep, NoRecordContributesMoreThanTheClippingNorm) {
  using enum kernels::ClipRule;
  for (Setting s : settings())
    for (const auto& [clip, scale, rule] :
         {std::tuple{0.1, 3.0, kFlat}, {1.0, 100.0, kFlat}, {1.0, 1e-3, kAutomatic}}) {
      s.clip_rule = rule;
      s.max_grad_norm = clip;
      s.weight_scale = scale;
      for (const int64_t e : {0, 1, 3}) {
        Engine engine(s);
        engine.accumulate(kExamples, std::span(&e, 1), 1);
        EXPECT_LE(engine.norm(), clip * (1 + kernels::kGramSlack) + engine.rounding())
            << s << ", example " << e;
        EXPECT_GT(engine.norm(), 0) << s << ", example " << e;
      }
    }
}

TEST(ClippedStep, AClippedRecordHasTheClippingNorm) {
  for (Setting s : settings()) {
    s.max_grad_norm = 0.1;
    for (const int64_t e : {0, 1, 2}) {
      Engine engine(s);
      engine.accumulate(kExamples, std::span(&e, 1), 1);
      EXPECT_NEAR(engine.norm() / 0.1, 1, kernels::kGramSlack) << s << ", example " << e;
    }
  }
}

TEST(ClippedStep, TheSumIsThatOfItsMicrobatches) {
  const int64_t first[] = {0, 2}, second[] = {1, 5};
  for (const Setting& s : settings()) {
    Engine one(s), other(s), both(s);
    one.accumulate(kExamples, first, 2);
    other.accumulate(kExamples, second, 2);
    both.accumulate(kExamples, first, 2);
    both.accumulate(kExamples, second, 2);
    std::vector<int64_t> expected = one.sum();
    const std::vector<int64_t> added = other.sum();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += added[i];
    EXPECT_EQ(both.sum(), expected) << s;
  }
}

// Untied: only the record that holds the token meets the row that is not finite.
TEST(ClippedStep, ANonFiniteRecordChangesNothing) {
  for (Setting s : settings()) {
    if (s.tied) continue;
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
      const plan::Gpt2Shape shape = tiny_shape(s.tied);
      std::vector<float> weights = test::made_parameters(shape);
      weights[kPoisoned * shape.width + 3] = bad;
      Engine with(s, shape, weights), without(s, shape, weights), alone(s, shape, weights);
      const int64_t all[] = {0, 2, 6}, others[] = {0, 2}, poisoned[] = {6};
      if (std::isfinite(bad)) {  // a huge, finite row: whatever the record adds is bounded
        alone.accumulate(kExamples, poisoned, 1);
        EXPECT_LE(alone.norm(), 1 + kernels::kGramSlack + alone.rounding()) << s;
        continue;
      }
      with.accumulate(kExamples, all, 3);
      without.accumulate(kExamples, others, 3);
      EXPECT_EQ(with.sum(), without.sum()) << s << ", " << bad;
      alone.accumulate(kExamples, poisoned, 1);
      EXPECT_EQ(test::l2(std::span<const int64_t>(alone.sum())), 0) << s << ", " << bad;
      EXPECT_EQ(ClippedStepAccess::factor(alone.step, 0), 0);
    }
  }
}

// LibTorch's operations stand for two of the kernels; without the rows of a tied table its norm is direct.
TEST(ClippedStep, ANormWithAPartThatWasNotMeasuredExcludesItsRecords) {
  for (const Setting& s : settings())
    for (const std::string part : {"vector", "position", "token_row", "matrix"}) {
      if (s.library && (part == "position" || part == "matrix")) continue;
      if (s.tied && part == "token_row") continue;
      Engine engine(s);
      engine.calls.left_out = part + "_squares";
      engine.accumulate(kExamples, kSome, 5);
      EXPECT_EQ(engine.norm(), 0) << s << ", " << part;
    }
}

TEST(ClippedStep, MicrobatchesWithoutTargetsAndWithoutTokensAddNothing) {
  for (const Setting& s : settings()) {
    Engine engine(s);
    const int64_t without_targets[] = {4};
    engine.accumulate(kExamples, {}, 3);
    engine.accumulate(kExamples, {}, 2, /*tokens=*/0);
    engine.accumulate(kExamples, {}, 0);
    engine.accumulate(kExamples, without_targets, 2);
    EXPECT_EQ(engine.sum(), std::vector<int64_t>(engine.initial.size())) << s;
    engine.step.release(kKey, 0, kAdamw);
    EXPECT_EQ(engine.calls.counts["release"], 1);
  }
}

// After one AdamW step from zero state m is (1 - beta1) x gradient, from which the released gradient is read.
TEST(ClippedStep, AReleaseHasTheNoiseOfItsDrawOnce) {
  for (const at::ScalarType compute : {at::kDouble, at::kFloat, at::kBFloat16})
    for (const int64_t microbatches : {0, 1, 3}) {
      const Setting s = {.compute = compute, .stddev = 1e5};
      Engine engine(s);
      for (int64_t k = 0; k < microbatches; ++k) engine.accumulate(kExamples, std::span(&k, 1), 2);
      std::vector<int64_t> sum = engine.sum();
      std::vector<float> gradient(sum.size());
      kernels::add_noise(kKey, 9, 0, {s.stddev}, engine.grid() / 4, std::span<const int64_t>(sum), gradient);
      std::vector<float> m(sum.size()), v(sum.size()), weights = engine.initial;
      kernels::adamw_step(kAdamw, model::decay_ranges(model::gpt2_parameters(engine.shape)),
                          [&](int64_t begin, std::span<float>) { return gradient.data() + begin; }, m, v,
                          weights, {});
      engine.step.release(kKey, 9, kAdamw);
      const auto values = [](const at::Tensor& t) {
        return std::vector<float>(t.const_data_ptr<float>(), t.const_data_ptr<float>() + t.numel());
      };
      EXPECT_EQ(values(engine.parameters.m), m) << s << ", " << microbatches;
      EXPECT_EQ(values(engine.parameters.weights), weights) << s << ", " << microbatches;
      EXPECT_TRUE(engine.parameters.compute.equal(engine.parameters.weights.to(compute)));
      EXPECT_EQ(engine.sum(), std::vector<int64_t>(sum.size())) << "the sum outlived its release";
      EXPECT_EQ(engine.calls.counts["release"], 1);
      EXPECT_THROW(engine.step.release(kKey, 9, kAdamw), InternalError);
    }
}

TEST(ClippedStep, MoreContributionsThanAWordHoldsAreSummedExactly) {
  const Setting s = {.compute = at::kFloat, .norms = NormChoice::kDirect, .max_grad_norm = 0.01};
  const std::vector<int64_t> which(100, 1);
  Engine once(s), often(s);
  once.accumulate(kExamples, which, 100);
  for (int k = 0; k < 4; ++k) often.accumulate(kExamples, which, 100);
  std::vector<int64_t> expected = once.sum();
  for (int64_t& v : expected) v *= 4;
  EXPECT_EQ(often.sum(), expected);
  often.step.release(kKey, 1, kAdamw);
  EXPECT_EQ(often.calls.counts["wide_release"], 1);
  EXPECT_EQ(often.sum(), std::vector<int64_t>(expected.size()));
  EXPECT_THROW(often.accumulate(kExamples, std::vector<int64_t>(256, 1), 256), InternalError);
}

TEST(ClippedStep, WhatDoesNotFitIsRefused) {
  const Setting s;
  Engine engine(s);
  const auto bf16 = test::make_host_kernels(kernels::Element::kBFloat16,
                                            model::decay_ranges(model::gpt2_parameters(engine.shape)));
  EXPECT_THROW(ClippedStep({1, -22, {0}, 4}, engine.model, *bf16, engine.parameters), InternalError);
  EXPECT_THROW(ClippedStep({1, -24, {0}, 4}, engine.model, *engine.host, engine.parameters), InternalError);
  EXPECT_THROW(ClippedStep({1, -22, {0}, 0}, engine.model, *engine.host, engine.parameters), InternalError);
}

std::vector<float> floats_of(const model::SafetensorsFile& file, const std::string& name) {
  std::vector<float> values(file.at(name).elements());
  file.read_floats(name, values);
  return values;
}

TEST(ClippedStep, NormsAndClippedSumAreTheGoldenOnes) {
  namespace fs = std::filesystem;
  const char* shared = std::getenv("DPFA_SHARED");
  if (shared == nullptr || !fs::exists(fs::path(shared) / "golden/gradients"))
    GTEST_SKIP() << "not run: no golden gradients (DPFA_SHARED names no folder that has them)";
  for (const auto& [name, clip] : {std::pair{"gpt2-tied", 1.0}, {"gpt2-untied", 0.5}, {"gpt2-no-clip", 12.0}})
    for (const NormChoice norms : {NormChoice::kGram, NormChoice::kDirect}) {
      SCOPED_TRACE(name);
      const fs::path golden = fs::path(shared) / "golden/gradients" / name;
      const plan::Gpt2Shape shape = model::read_gpt2_shape(golden / "model");
      std::vector<float> weights(shape.parameter_count());
      model::load_gpt2_weights(golden / "model", shape, weights);
      const auto batch = model::SafetensorsFile::open(golden / "batch.safetensors"),
                 expected = model::SafetensorsFile::open(golden / "expected.safetensors");
      const std::vector<int64_t> ids = batch.read_integers("input_ids"),
                                 labels = batch.read_integers("labels");
      const int64_t count = batch.at("input_ids").shape[0], tokens = batch.at("input_ids").shape[1];
      std::vector<Example> examples(count);
      std::vector<int64_t> which(count);
      for (int64_t i = 0; i < count * tokens; ++i) {
        examples[i / tokens].ids.push_back(ids[i]);
        examples[i / tokens].targets.push_back((i + 1) % tokens == 0 ? data::kIgnored : labels[i + 1]);
        which[i / tokens] = i / tokens;
      }
      const std::vector<float> golden_norms = floats_of(expected, "per_example_grad_norm");
      if (clip == 12.0) {
        ASSERT_LT(*std::max_element(golden_norms.begin(), golden_norms.end()), clip);
      }
      Engine engine({.compute = at::kFloat, .tied = shape.tied_head, .norms = norms, .max_grad_norm = clip},
                    shape, weights);
      engine.accumulate(examples, which, count, tokens);
      for (int64_t b = 0; b < count; ++b)
        EXPECT_NEAR(ClippedStepAccess::norm(engine.step, b) / golden_norms[b], 1, 1e-4) << "example " << b;
      const std::vector<int64_t> sum = engine.sum();
      const double whole = engine.norm();
      for (const model::ParameterInfo& p : model::gpt2_parameters(shape)) {
        const std::vector<float> wanted = floats_of(expected, "clipped_sum/" + p.name);
        double squares = 0;
        for (int64_t i = 0; i < p.size; ++i)
          squares += std::pow(static_cast<double>(sum[p.offset + i]) * engine.grid() - wanted[i], 2);
        const double rounding =
            0.5 * static_cast<double>(count) * std::sqrt(static_cast<double>(p.size)) * engine.grid();
        EXPECT_LE(std::sqrt(squares),
                  1e-4 * test::l2(std::span<const float>(wanted)) + 1e-5 * whole + rounding)
            << p.name;
      }
    }
}

}  // namespace
}  // namespace dpfa::device
