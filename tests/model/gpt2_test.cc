// GPT-2's losses and per-example gradients against autograd on one example at a time.
#include <gtest/gtest.h>

#include <cctype>
#include <map>

#include "kernels/norm_route.h"
#include "src/base/error.h"
#include "tests/support/engine_oracle.h"

namespace dpfa::model {
namespace {

using test::Example;
using test::OracleGradient;

constexpr int64_t kVocab = 97, kPositions = 260;

plan::Gpt2Shape tiny_shape(bool tied) {
  return {.layers = 2, .width = 24, .heads = 3, .positions = kPositions, .vocab = kVocab, .tied_head = tied};
}

// Examples of one length with their oracle gradients, computed once for all tests.
struct Case {
  plan::Gpt2Shape shape;
  int64_t tokens;
  std::vector<float> parameters;
  std::vector<Example> examples;
  std::vector<OracleGradient> oracle;      // in double
  std::vector<OracleGradient> plain_bf16;  // the same autograd program run in bf16

  static const Case& of(bool tied, int64_t tokens) {
    static std::map<std::pair<bool, int64_t>, Case> cases;
    const auto [at, is_new] = cases.try_emplace({tied, tokens});
    if (is_new) at->second.fill(tied, tokens);
    return at->second;
  }

  std::vector<int64_t> all() const {
    std::vector<int64_t> which(examples.size());
    for (size_t b = 0; b < which.size(); ++b) which[b] = static_cast<int64_t>(b);
    return which;
  }

 private:
  void fill(bool tied, int64_t t) {
    shape = tiny_shape(tied);
    tokens = t;
    parameters = test::made_parameters(shape);
    examples = {test::random_example(11, t, kVocab), test::repeated_example(7, t),
                test::padded_example(12, (t + 1) / 2, t, kVocab), test::without_targets(13, t, kVocab)};
    if (t > 1) examples[0].targets[0] = data::kIgnored;
    for (const Example& example : examples) {
      oracle.push_back(test::oracle_gradient(shape, parameters, example));
      plain_bf16.push_back(test::oracle_gradient(shape, parameters, example, at::kBFloat16));
    }
  }
};

// The engine's pass over `which` examples, and the route's clipped sum in double.
struct Pass {
  std::vector<double> losses, sum;
  std::vector<kernels::ExampleOutcome> outcomes;

  Pass(const Case& c, at::ScalarType compute, kernels::NormRoute& route, const std::vector<int64_t>& which,
       double max_grad_norm)
      : losses(which.size()), sum(c.shape.parameter_count()), outcomes(which.size()) {
    const data::Microbatch packed =
        test::pack(c.examples, which, static_cast<int64_t>(which.size()), c.tokens);
    std::vector<double> weights;
    std::vector<uint8_t> selected;
    for (int64_t i : which) {
      weights.push_back(c.examples[i].weight());
      selected.push_back(c.examples[i].target_count() > 0);
    }
    Gpt2 model(c.shape, compute);
    model.bind(c.parameters);
    const Batch batch{packed.slots, packed.tokens, packed.input_ids, packed.targets, weights, packed.records};
    model.forward(batch, nullptr, /*for_backward=*/true, losses);
    kernels::DoubleSink sink(sum);
    route.accumulate(collect_records(model), selected, max_grad_norm, sink, outcomes);
  }
};

double relative_distance(std::span<const double> a, std::span<const double> b) {
  std::vector<double> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return test::l2(std::span<const double>(difference)) / test::l2(b);
}

// "exact": the exact route; otherwise the route of numerics = fp32 with this norm method for every matrix.
std::unique_ptr<kernels::NormRoute> route_by(const std::string& method) {
  return method == "exact" ? kernels::make_exact_route() : kernels::make_gram_route({.method = method});
}

struct Setting {
  std::string method;
  bool tied;
  int64_t tokens;
};

class PerExample : public ::testing::TestWithParam<Setting> {
 protected:
  const Case& made() const { return Case::of(GetParam().tied, GetParam().tokens); }
  std::unique_ptr<kernels::NormRoute> route() const { return route_by(GetParam().method); }
  // Half the largest norm: some examples are clipped and some are not.
  double clip() const {
    double largest = 0;
    for (const OracleGradient& o : made().oracle) largest = std::max(largest, o.norm);
    return largest / 2;
  }
  // Norm and loss of each example and the clipped sum, to `tolerance` relative.
  void expect_oracle(at::ScalarType compute, double tolerance) {
    const Case& c = made();
    const auto engine = route();
    const Pass pass(c, compute, *engine, c.all(), clip());
    std::vector<double> expected(c.shape.parameter_count());
    for (size_t b = 0; b < c.examples.size(); ++b) {
      SCOPED_TRACE("example " + std::to_string(b));
      const OracleGradient& oracle = c.oracle[b];
      EXPECT_NEAR(pass.losses[b], oracle.loss, tolerance * std::max(1.0, oracle.loss));
      if (c.examples[b].target_count() == 0) {
        EXPECT_EQ(pass.outcomes[b].factor, 0);
        continue;
      }
      EXPECT_NEAR(pass.outcomes[b].norm / oracle.norm, 1, tolerance);
      const double factor = std::min(1.0, clip() / oracle.norm);
      EXPECT_NEAR(pass.outcomes[b].factor, factor, tolerance);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += factor * oracle.gradient[i];
    }
    EXPECT_LE(relative_distance(pass.sum, expected), tolerance);
  }
};

TEST_P(PerExample, NormAndClippedSumAreTheOraclesInDouble) { expect_oracle(at::kDouble, 1e-12); }

TEST_P(PerExample, NormAndClippedSumAreTheOraclesInFp32) { expect_oracle(at::kFloat, 1e-5); }

// Every tensor on its own, so that a small one cannot hide behind a large one.
TEST_P(PerExample, EveryTensorGetsItsGradient) {
  const Case& c = made();
  const auto engine = route();
  for (const auto& [compute, own, whole] :
       {std::tuple{at::kDouble, 1e-10, 1e-14}, std::tuple{at::kFloat, 1e-3, 1e-6}}) {
    const Pass pass(c, compute, *engine, {0}, 1e30);
    const std::span<const double> got(pass.sum), expected(c.oracle[0].gradient);
    for (const ParameterInfo& p : gpt2_parameters(c.shape)) {
      const auto expected_part = expected.subspan(p.offset, p.size);
      const double norm = test::l2(expected_part);
      EXPECT_GT(norm, 0) << p.name;
      const double distance = relative_distance(got.subspan(p.offset, p.size), expected_part) * norm;
      EXPECT_LE(distance, own * norm + whole * c.oracle[0].norm)
          << p.name << " in " << c10::toString(compute);
    }
  }
}

// bf16 has no exact answer: each example's gradient may be off by twice what the same network is off in plain
// bf16 autograd, and its loss and norm likewise. The floor of 2^-9 is half a unit in the last place of one
// bf16 result.
TEST_P(PerExample, Bf16ErrorIsAtMostTwiceThatOfPlainBf16) {
  const Case& c = made();
  const auto engine = route();
  for (int64_t b : c.all()) {
    if (c.examples[b].target_count() == 0) continue;
    const OracleGradient &oracle = c.oracle[b], &plain = c.plain_bf16[b];
    const Pass pass(c, at::kBFloat16, *engine, {b}, 1e30);
    const double bound = 2 * relative_distance(plain.gradient, oracle.gradient) + 0x1p-9;
    EXPECT_LE(relative_distance(pass.sum, oracle.gradient), bound) << "example " << b;
    EXPECT_NEAR(pass.outcomes[0].norm / oracle.norm, 1, bound) << "example " << b;
    // What is measured is what is added, in bf16 too.
    EXPECT_NEAR(test::l2(std::span<const double>(pass.sum)) / pass.outcomes[0].norm, 1,
                GetParam().method == "gram" ? kernels::kGramSlack : 1e-12);
  }
}

std::vector<Setting> settings() {
  std::vector<Setting> result;
  for (const char* method : {"exact", "gram", "direct", "materialise"})
    for (bool tied : {false, true})
      for (int64_t tokens : {1, 2, 63, 64, 65, 127, 129, 130, 257}) result.push_back({method, tied, tokens});
  return result;
}

INSTANTIATE_TEST_SUITE_P(Gpt2, PerExample, ::testing::ValuesIn(settings()), [](const auto& tested) {
  const Setting& s = tested.param;
  std::string name = s.method;
  name[0] = static_cast<char>(std::toupper(name[0]));
  return name + (s.tied ? "Tied" : "Untied") + "T" + std::to_string(s.tokens);
});

// Agreement of the methods says something only where they are different computations: in fp32 a Gram norm has
// other last bits than one of the gradient itself, however that is formed.
TEST(Gpt2, GramNormsAreNotThoseOfTheGradientInDisguise) {
  for (bool tied : {false, true})
    for (int64_t tokens : {2, 65, 257}) {
      const Case& c = Case::of(tied, tokens);
      const auto norm_by = [&](const char* method) {
        return Pass(c, at::kFloat, *route_by(method), {0}, 1).outcomes[0].norm;
      };
      const double direct = norm_by("direct");
      EXPECT_NE(norm_by("gram"), direct) << "tied " << tied << ", " << tokens << " tokens";
      EXPECT_EQ(norm_by("materialise"), direct) << "tied " << tied << ", " << tokens << " tokens";
    }
}

TEST(Gpt2, BatchGradientWithoutClippingIsTheSumOfTheOracles) {
  for (bool tied : {false, true}) {
    const Case& c = Case::of(tied, 65);
    const data::Microbatch packed = test::pack(c.examples, c.all(), 4, c.tokens);
    std::vector<double> weights, losses(4);
    std::vector<double> expected(c.shape.parameter_count());
    for (size_t b = 0; b < 4; ++b) {
      weights.push_back(c.examples[b].weight());
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += c.oracle[b].gradient[i];
    }
    Gpt2 model(c.shape, at::kFloat);
    model.bind(c.parameters);
    const Batch batch{4, c.tokens, packed.input_ids, packed.targets, weights, packed.records};
    std::vector<float> gradient(c.shape.parameter_count(), 123.0f);
    for (const BatchProducts products : {BatchProducts::kWhole, BatchProducts::kPanels})
      for (const double times : {1.0, 2.0}) {  // the first call overwrites, the second adds
        model.forward(batch, nullptr, /*for_backward=*/true, losses);
        add_batch_gradient(model, /*overwrite=*/times == 1, gradient, products);
        std::vector<double> got(gradient.begin(), gradient.end()), target(expected);
        for (double& value : target) value *= times;
        EXPECT_LE(relative_distance(got, target), 1e-5) << "tied " << tied << ", times " << times;
      }
  }
}

// Positions behind an example's last target: left out of the pass, or worked on without effect.
TEST(Gpt2, RowsOfPaddingChangeNothing) {
  for (bool tied : {false, true}) {
    const Case& c = Case::of(tied, 65);
    const data::Microbatch packed = test::pack(c.examples, c.all(), 4, c.tokens);
    std::vector<double> weights;
    std::vector<int64_t> lengths;
    for (const Example& e : c.examples) {
      weights.push_back(e.weight());
      int64_t length = c.tokens;
      while (length > 0 && e.targets[length - 1] < 0) --length;
      lengths.push_back(length);
    }
    EXPECT_LT(*std::min_element(lengths.begin(), lengths.end()), c.tokens);
    Gpt2 model(c.shape, at::kFloat);
    model.bind(c.parameters);
    std::vector<double> losses[2];
    std::vector<float> gradients[2];
    for (const bool ragged : {false, true}) {
      Batch batch{4, c.tokens, packed.input_ids, packed.targets, weights, packed.records};
      if (ragged) batch.lengths = lengths;
      losses[ragged].resize(4);
      gradients[ragged].resize(c.shape.parameter_count());
      model.forward(batch, nullptr, /*for_backward=*/true, losses[ragged]);
      add_batch_gradient(model, /*overwrite=*/true, gradients[ragged]);
    }
    for (size_t b = 0; b < 4; ++b) EXPECT_NEAR(losses[1][b], losses[0][b], 1e-6);
    const std::vector<double> a(gradients[0].begin(), gradients[0].end()),
        b(gradients[1].begin(), gradients[1].end());
    EXPECT_LE(relative_distance(b, a), 1e-6);
  }
}

TEST(Gpt2, EveryWayToExecuteGivesTheLossesAndGradientOfTheOracle) {
  const Case& c = Case::of(true, 65);
  const data::Microbatch packed = test::pack(c.examples, c.all(), 4, c.tokens);
  std::vector<double> weights, losses(4), expected(c.shape.parameter_count());
  for (size_t b = 0; b < 4; ++b) {
    weights.push_back(c.examples[b].weight());
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += c.oracle[b].gradient[i];
  }
  const Batch batch{4, c.tokens, packed.input_ids, packed.targets, weights, packed.records};
  for (const Execution& execution :
       {Execution{.attention = kernels::AttentionPath::kExact}, Execution{.recompute_layers = true}}) {
    Gpt2 model(c.shape, at::kFloat, execution);
    model.bind(c.parameters);
    model.forward(batch, nullptr, /*for_backward=*/true, losses);
    for (size_t b = 0; b < 4; ++b) EXPECT_NEAR(losses[b], c.oracle[b].loss, 1e-5 * (1 + c.oracle[b].loss));
    std::vector<float> gradient(c.shape.parameter_count());
    add_batch_gradient(model, /*overwrite=*/true, gradient);
    EXPECT_LE(relative_distance(std::vector<double>(gradient.begin(), gradient.end()), expected), 1e-5);
  }
}

TEST(Gpt2, LogitsOfTheNextTokenGiveTheLossOfThatToken) {
  const Case& c = Case::of(true, 63);
  Gpt2 model(c.shape, at::kFloat);
  model.bind(c.parameters);
  Example last = c.examples[0];
  std::fill(last.targets.begin(), last.targets.end() - 1, data::kIgnored);
  const std::vector<float> logits = model.next_token_logits(last.ids);
  ASSERT_EQ(static_cast<int64_t>(logits.size()), kVocab);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  const double expected = test::oracle_gradient(c.shape, c.parameters, last).loss;
  EXPECT_NEAR(std::log(sum) - static_cast<double>(logits[last.targets.back()]), expected, 1e-5);
}

TEST(Gpt2, NoExamplesAndNoTokensGiveNoLoss) {
  Gpt2 model(tiny_shape(true), at::kFloat);
  const std::vector<float> parameters = test::made_parameters(model.shape());
  model.bind(parameters);
  model.forward({}, nullptr, /*for_backward=*/true, {});
  std::vector<double> weights = {0, 0}, losses = {5, 5};
  const std::vector<int64_t> records = {1, 2};
  model.forward({2, 0, {}, {}, weights, records}, nullptr, /*for_backward=*/true, losses);
  EXPECT_EQ(losses, (std::vector<double>{0, 0}));
}

TEST(Gpt2, MoreTokensThanPositionsAreRefused) {
  Gpt2 model(tiny_shape(true), at::kFloat);
  const std::vector<float> parameters = test::made_parameters(model.shape());
  model.bind(parameters);
  const std::vector<int64_t> ids(kPositions + 1, 1), records = {1};
  const std::vector<double> weights = {1};
  double loss = 0;
  EXPECT_THROW(
      model.forward({1, kPositions + 1, ids, ids, weights, records}, nullptr, false, std::span(&loss, 1)),
      InternalError);
}

}  // namespace
}  // namespace dpfa::model
