// The bound on what one example adds, on records made by hand: no input may break it.
#include "kernels/norm_route.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "kernels/contribution_sink.h"
#include "tests/support/engine_oracle.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kInputs = 37, kOutputs = 53;  // no multiple of a vector or a tile
constexpr int64_t kParameters = kInputs * kOutputs;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
using enum ClipRule;

std::string text_of(const Clipping& clip) {
  return (clip.rule == kFlat ? "flat, C = " : "automatic, C = ") + std::to_string(clip.max_grad_norm);
}

using Rows = std::vector<std::vector<float>>;  // one vector per token

float uniform(std::mt19937_64& random) { return static_cast<float>(random() >> 40) * 0x1p-23f - 1; }

Rows random_rows(std::mt19937_64& random, int64_t tokens, int64_t columns, float scale) {
  Rows rows(tokens, std::vector<float>(columns));
  for (auto& row : rows)
    for (float& value : row) value = scale * uniform(random);
  return rows;
}

// One example of one linear layer: input rows x and output gradients g.
struct LinearExample {
  Rows x, g;
};

at::Tensor stack(const std::vector<const Rows*>& examples, int64_t columns, at::ScalarType compute) {
  std::vector<float> flat;
  for (const Rows* rows : examples)
    for (const auto& row : *rows) flat.insert(flat.end(), row.begin(), row.end());
  return at::tensor(flat).view({-1, columns}).to(compute);
}

struct Result {
  std::vector<ExampleOutcome> outcomes;
  std::vector<double> sum;
  double norm() const {
    double squares = 0;
    for (double v : sum) squares += v * v;
    return std::sqrt(squares);
  }
};

GradientRecords records_of(const std::vector<LinearExample>& examples, at::ScalarType compute) {
  std::vector<const Rows*> xs, gs;
  for (const LinearExample& e : examples) xs.push_back(&e.x), gs.push_back(&e.g);
  GradientRecords records;
  for (const LinearExample& e : examples)
    records.offsets.push_back(records.offsets.back() + static_cast<int64_t>(e.x.size()));
  records.linears.push_back({stack(xs, kInputs, compute), stack(gs, kOutputs, compute), 0, false});
  return records;
}

Result run(NormRoute& route, const std::vector<LinearExample>& examples, at::ScalarType compute,
           Clipping clip) {
  const GradientRecords records = records_of(examples, compute);
  Result result{std::vector<ExampleOutcome>(examples.size()), std::vector<double>(kParameters)};
  DoubleSink sink(result.sum);
  const std::vector<uint8_t> selected(examples.size(), 1);
  route.accumulate(records, selected, clip, sink, result.outcomes);
  return result;
}

// Token pairs (x, g), (x', -g) with x' = x (1 + residue x random): all but a share `residue` of the gradient
// cancels.
LinearExample cancelling(uint64_t seed, int64_t tokens, float residue, float scale) {
  std::mt19937_64 random(seed);
  LinearExample e{random_rows(random, tokens, kInputs, scale), random_rows(random, tokens, kOutputs, 1)};
  for (int64_t t = 0; t + 1 < tokens; t += 2) {
    for (int64_t c = 0; c < kInputs; ++c) e.x[t + 1][c] = e.x[t][c] * (1 + residue * uniform(random));
    for (int64_t c = 0; c < kOutputs; ++c) e.g[t + 1][c] = -e.g[t][c];
  }
  if (tokens % 2 == 1) std::fill(e.g.back().begin(), e.g.back().end(), 0.0f);
  return e;
}

LinearExample scaled(uint64_t seed, int64_t tokens, float x_scale, float g_scale) {
  std::mt19937_64 random(seed);
  return {random_rows(random, tokens, kInputs, x_scale), random_rows(random, tokens, kOutputs, g_scale)};
}

LinearExample outlier(uint64_t seed, int64_t tokens, float size) {
  LinearExample e = scaled(seed, tokens, 1, 1);
  for (float& v : e.x[tokens / 2]) v *= size;
  return e;
}

struct Named {
  std::string name;
  LinearExample example;
};

std::vector<Named> adversarial_examples() {
  std::vector<Named> result;
  for (int64_t tokens : {1, 2, 64, 65, 130})
    for (float residue : {0.0f, 1e-7f, 1e-5f, 1e-3f, 0.01f, 0.03f, 1.0f})
      for (float scale : {1e-3f, 1.0f, 1e4f})
        result.push_back({"cancelling T=" + std::to_string(tokens) + " residue=" + std::to_string(residue) +
                              " scale=" + std::to_string(scale),
                          cancelling(tokens, tokens, residue, scale)});
  for (float size : {1e3f, 1e8f, 1e15f, 1e18f, 1e25f})
    result.push_back({"outlier " + std::to_string(size), outlier(1, 64, size)});
  // Squares of g leave the range of f32 at the small end while x g does not.
  for (float x : {1.0f, 1e6f, 1e15f, 1e18f})
    for (float g : {1e-18f, 1e-20f, 1e-23f, 1e-30f, 1e-40f})
      result.push_back(
          {"tiny g=" + std::to_string(std::log10(g)) + " x=" + std::to_string(x), scaled(2, 64, x, g)});
  // Entries of both Gram matrices are in the range of f32, those of the gradient are not.
  for (int64_t tokens : {64, 130})
    result.push_back({"aligned and large, T=" + std::to_string(tokens),
                      {Rows(tokens, std::vector<float>(kInputs, 2.5e18f)),
                       Rows(tokens, std::vector<float>(kOutputs, 2.5e18f))}});
  // The same of 64 tokens, of which the Gram entries overflow too, or, of two columns, do not.
  for (int64_t columns : {kOutputs, int64_t{2}}) {
    LinearExample e = {Rows(64, std::vector<float>(kInputs)), Rows(64, std::vector<float>(kOutputs))};
    for (Rows* rows : {&e.x, &e.g})
      for (auto& row : *rows) std::fill_n(row.begin(), std::min<int64_t>(columns, row.size()), 4e18f);
    result.push_back({"constant and large, " + std::to_string(columns) + " columns", e});
  }
  for (float g : {0.0f, 1e-6f, 1e6f})
    result.push_back({"small or large g=" + std::to_string(g), scaled(15, 64, 1, g)});
  for (float bad : {kInf, -kInf, kNan, 3e38f}) {
    LinearExample e = scaled(3, 65, 1, 1);
    e.x[7][3] = bad;
    result.push_back({"input holds " + std::to_string(bad), e});
    e = scaled(4, 65, 1, 1);
    e.g[7][3] = bad;
    result.push_back({"gradient holds " + std::to_string(bad), e});
  }
  return result;
}

// The exact route over parts that come twice.
class Streamed final : public NormRoute {
 public:
  void accumulate(const GradientRecords& records, std::span<const uint8_t> selected, Clipping clip,
                  ContributionSink& sink, std::span<ExampleOutcome> outcomes) override {
    StreamedRoute route(records.examples());
    route.measure(records, selected);
    const std::vector<ExampleOutcome> settled = route.settle(selected, clip);
    route.add(records, settled, sink);
    route.check_added(settled);
    std::copy(settled.begin(), settled.end(), outcomes.begin());
  }
};

struct Route {
  std::string name;
  std::function<std::unique_ptr<NormRoute>()> make;
  double slack;
};
// 1e-12: norm and check are sums of a few thousand squares in double.
std::unique_ptr<NormRoute> make_by(const std::string& method) { return make_gram_route({.method = method}); }
const Route kRoutes[] = {{"exact", [] { return make_exact_route(); }, 1e-12},
                         {"streamed", [] { return std::make_unique<Streamed>(); }, 1e-12},
                         {"gram", [] { return make_by("gram"); }, kGramSlack},
                         {"direct", [] { return make_by("direct"); }, kGramSlack},
                         {"materialise", [] { return make_by("materialise"); }, kGramSlack}};

TEST(NormRoute, NoExampleAddsMoreThanTheClippingNorm) {
  for (const Route& route : kRoutes) {
    const auto engine = route.make();
    for (const Named& named : adversarial_examples())
      for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
        for (const Clipping& clip : {Clipping(1e-5), Clipping(0.1), Clipping(1), Clipping(10),
                                     Clipping(1e-5, kAutomatic), Clipping(1, kAutomatic)}) {
          const Result result = run(*engine, {named.example}, compute, clip);
          EXPECT_LE(result.norm(), clip.max_grad_norm * (1 + route.slack))  // false for NaN too
              << route.name << ", " << named.name << ", " << c10::toString(compute) << ", " << text_of(clip);
        }
  }
}

// As a run adds it: as integers on the plan's grid, within the plan's sensitivity. The clipping norms are the
// least, the largest and some in between; with the least, factors are subnormal f32 or none.
TEST(NormRoute, NoExampleAddsIntegersBeyondTheSensitivityOfThePlan) {
  const std::vector<Named> examples = adversarial_examples();
  for (const Route& route : kRoutes) {
    const auto engine = route.make();
    const std::string numerics = route.slack == kGramSlack ? "fp32" : "exact";
    int subnormal = 0;
    for (const Clipping& clip :
         {Clipping(1e-12), Clipping(1e-5), Clipping(0.1), Clipping(1), Clipping(10), Clipping(1e12),
          Clipping(1e-12, kAutomatic), Clipping(1, kAutomatic), Clipping(1e12, kAutomatic)}) {
      const plan::PrivacyPlan plan =
          test::make_plan({.numerics = numerics, .max_grad_norm = clip.max_grad_norm}, kParameters);
      for (const Named& named : examples)
        for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
          std::vector<int32_t> sum(kParameters);
          IntegerSink sink(sum, plan.grid_exponent());
          ExampleOutcome outcome;
          const std::vector<uint8_t> selected = {1};
          engine->accumulate(records_of({named.example}, compute), selected, clip, sink, {&outcome, 1});
          EXPECT_LE(test::l2(std::span<const int32_t>(sum)) * plan.grid(), plan.sensitivity())
              << route.name << ", " << named.name << ", " << c10::toString(compute) << ", " << text_of(clip);
          subnormal += outcome.factor > 0 && outcome.factor < std::numeric_limits<float>::min();
        }
    }
    EXPECT_GT(subnormal, 0) << route.name;
  }
}

// The gradient of one example, entry by entry in long double.
std::vector<long double> gradient_of(const LinearExample& e) {
  std::vector<long double> gradient(kParameters);
  for (size_t t = 0; t < e.x.size(); ++t)
    for (int64_t i = 0; i < kInputs; ++i)
      for (int64_t j = 0; j < kOutputs; ++j)
        gradient[i * kOutputs + j] += static_cast<long double>(e.x[t][i]) * e.g[t][j];
  return gradient;
}

// Norms from 2e-5 to 2e7: far below gamma, where the gradient is enlarged, and far above C.
TEST(NormRoute, AutomaticAddsEveryGradientOverItsNormPlusGamma) {
  for (const Route& route : kRoutes)
    for (const double clip : {0.25, 3.0}) {
      std::vector<long double> sum(kParameters);
      std::vector<LinearExample> examples;
      for (const float g : {1e-7f, 1e-5f, 1e-4f, 1e-2f, 1.0f, 1e5f, 0.0f}) {
        examples.push_back(scaled(16 + examples.size(), 65, 1, g));
        const std::vector<long double> gradient = gradient_of(examples.back());
        long double squares = 0;
        for (const long double v : gradient) squares += v * v;
        for (int64_t i = 0; i < kParameters; ++i) sum[i] += clip * gradient[i] / (sqrtl(squares) + 0.01L);
        const Result alone = run(*route.make(), {examples.back()}, at::kFloat, {clip, kAutomatic});
        const double expected = static_cast<double>(clip * sqrtl(squares) / (sqrtl(squares) + 0.01L));
        EXPECT_NEAR(alone.norm(), expected, (route.slack + 1e-5) * expected) << route.name << ", g = " << g;
      }
      const Result result = run(*route.make(), examples, at::kFloat, {clip, kAutomatic});
      long double distance = 0;
      for (int64_t i = 0; i < kParameters; ++i)
        distance += (result.sum[i] - sum[i]) * (result.sum[i] - sum[i]);
      EXPECT_LE(sqrtl(distance), (route.slack + 1e-5) * clip) << route.name << ", C = " << clip;
    }
}

TEST(NormRoute, WhatIsMeasuredIsWhatIsAdded) {
  for (const Route& route : kRoutes) {
    const auto engine = route.make();
    for (const Named& named : adversarial_examples()) {
      const Result result = run(*engine, {named.example}, at::kFloat, 1e-5);
      const ExampleOutcome& outcome = result.outcomes[0];
      if (outcome.factor == 0) continue;
      const double slack = route.slack * outcome.norm * outcome.factor;
      EXPECT_NEAR(result.norm(), outcome.norm * outcome.factor, slack) << route.name << ", " << named.name;
    }
  }
}

// Here the Gram matrices alone would be off by far more than kGramSlack: |x|^2 |g|^2 cancels to a share of
// 1e-10.
TEST(NormRoute, GramFallsBackToTheGradientWhereItsTermsCancel) {
  const auto exact = make_exact_route(), gram = make_by("gram");
  for (const float residue : {1e-6f, 1e-5f, 1e-4f}) {
    const std::vector<LinearExample> examples = {cancelling(5, 130, residue, 1)};
    const double expected = run(*exact, examples, at::kFloat, 1).outcomes[0].norm;
    const double measured = run(*gram, examples, at::kFloat, 1).outcomes[0].norm;
    EXPECT_NEAR(measured / expected, 1, 1e-3) << "residue " << residue;
  }
}

TEST(NormRoute, ANonFiniteExampleAddsNothingAndChangesNoOther) {
  for (const Route& route : kRoutes) {
    const auto engine = route.make();
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16, at::kDouble})
      for (const float bad : {kNan, kInf, -kInf}) {
        const LinearExample good = scaled(6, 65, 1, 1), other = scaled(7, 65, 1, 1);
        LinearExample poisoned = scaled(8, 65, 1, 1);
        poisoned.g[64][52] = bad;
        for (const Clipping& clip : {Clipping(1), Clipping(1, kAutomatic)}) {
          const Result without = run(*engine, {good, scaled(9, 65, 0, 0), other}, compute, clip);
          const Result with = run(*engine, {good, poisoned, other}, compute, clip);
          EXPECT_EQ(with.outcomes[1].factor, 0) << route.name;
          EXPECT_EQ(with.sum, without.sum)
              << route.name << " in " << c10::toString(compute) << " with " << bad << ", " << text_of(clip);
        }
      }
  }
}

TEST(NormRoute, AnExampleAddsTheSameBitsInAnySlotBesideAnyNeighbour) {
  const LinearExample mine = scaled(10, 65, 1, 1), nothing = scaled(11, 65, 0, 0);
  for (const Route& route : kRoutes) {
    const auto engine = route.make();
    const Result alone = run(*engine, {nothing, mine, nothing}, at::kFloat, 1);
    for (const LinearExample& neighbour :
         {outlier(12, 65, 1e3f), outlier(12, 65, kInf), cancelling(12, 65, 1e-5f, 1)}) {
      const Result together = run(*engine, {neighbour, mine, neighbour}, at::kFloat, 1);
      EXPECT_EQ(together.outcomes[1].norm, alone.outcomes[1].norm) << route.name;
      EXPECT_EQ(together.outcomes[1].factor, alone.outcomes[1].factor) << route.name;
    }
    EXPECT_EQ(run(*engine, {outlier(12, 65, kInf), mine, nothing}, at::kFloat, 1).sum, alone.sum)
        << route.name;
    // Neighbours of other lengths, so that its rows begin elsewhere; and no neighbour at all.
    const LinearExample none = {Rows(), Rows()}, few = scaled(11, 3, 0, 0), many = scaled(11, 131, 0, 0);
    for (const auto& examples :
         {std::vector{mine}, {few, mine}, {many, none, mine}, {none, few, many, mine}}) {
      const Result elsewhere = run(*engine, examples, at::kFloat, 1);
      EXPECT_EQ(elsewhere.outcomes.back().norm, alone.outcomes[1].norm) << route.name;
      EXPECT_EQ(elsewhere.sum, alone.sum) << route.name << " among " << examples.size();
    }
  }
}

TEST(NormRoute, AnExampleThatIsNotSelectedAddsNothing) {
  const LinearExample e = scaled(13, 5, 1, 1);
  for (const Route& route : kRoutes) {
    GradientRecords records;
    records.offsets = {0, 5};
    records.linears.push_back(
        {stack({&e.x}, kInputs, at::kFloat), stack({&e.g}, kOutputs, at::kFloat), 0, false});
    std::vector<double> sum(kInputs * kOutputs);
    std::vector<ExampleOutcome> outcomes = {{5, 1}};
    DoubleSink sink(sum);
    const std::vector<uint8_t> selected = {0};
    route.make()->accumulate(records, selected, 1, sink, outcomes);
    EXPECT_EQ(outcomes[0].factor, 0);
    EXPECT_EQ(sum, std::vector<double>(kInputs * kOutputs)) << route.name;
  }
}

// One contribution of n equal values v with factor f: |sum x grid| <= n^(1/2) (f v (1 + 2^-22) + grid / 2).
TEST(IntegerSink, RoundsTheScaledValuesToTheGridAndNeverScalesUp) {
  std::mt19937_64 random(14);
  for (const int exponent : {-25, -22, -19, 0})
    for (int k = 0; k < 200; ++k) {
      const float value = std::ldexp(uniform(random), static_cast<int>(random() % 20) - 10);
      const double factor = std::abs(uniform(random)) + 1e-9, grid = std::ldexp(1.0, exponent);
      if (std::abs(value) * factor > grid * 0x1p23) continue;
      std::vector<int32_t> sum(3, 100);
      IntegerSink sink(sum, exponent);
      sink.add(1, std::span(&value, 1), factor);
      const double exact = value * factor, added = (sum[1] - 100) * grid;
      EXPECT_NEAR(added, exact, grid / 2 + std::abs(exact) * 0x1p-22);
      EXPECT_LE(std::abs(added), std::abs(exact) * (1 + 0x1p-23) + grid / 2);
      EXPECT_TRUE(sum[0] == 100 && sum[2] == 100);
    }
}

// The grid of a plan is finest, in shares of its clipping norm, just below a power of two.
TEST(IntegerSink, MovesNoIntegerByMoreThanTheLargest) {
  for (const double clip : {std::nextafter(2.0, 0.0), std::nextafter(1024.0, 0.0), 1.0, 1.5})
    for (const double value : {clip * (1 + kGramSlack), 1e4, 1e30}) {
      std::vector<int32_t> sums(2);
      IntegerSink sink(sums, std::ilogb(clip) - 22);
      const float up = static_cast<float>(value), down = -up;
      const double factor = std::min(1.0, clip * (1 + kGramSlack) / up);
      sink.add(0, std::span(&up, 1), factor);
      sink.add(1, std::span(&down, 1), factor);
      EXPECT_LE(sums[0], kLargestInteger) << clip << ", " << value;
      EXPECT_GE(sums[1], -kLargestInteger) << clip << ", " << value;
      if (clip == std::nextafter(2.0, 0.0)) {
        EXPECT_GT(sums[0], (1 << 23) + 1) << "the slack of fp32 counts";
      }
    }
}

TEST(IntegerSink, AddsZerosWithFactorZeroWhateverTheValues) {
  const std::vector<double> values = {1, -2, kInf, -kInf, kNan, 3e38, 1e-45, 0, 5};
  const std::vector<float> floats(values.begin(), values.end());
  const std::vector<c10::BFloat16> halves(floats.begin(), floats.end());
  std::vector<int32_t> sum(values.size(), -7);
  IntegerSink sink(sum, -22);
  sink.add(0, std::span<const float>(floats), 0);
  sink.add(0, std::span<const c10::BFloat16>(halves), 0);
  sink.add(0, std::span<const double>(values), 0);
  EXPECT_EQ(sum, std::vector<int32_t>(values.size(), -7));
}

TEST(IntegerSink, AddsToWhatIsThereInEveryType) {
  std::vector<int32_t> sum = {10, 20};
  IntegerSink sink(sum, -1);
  const std::vector<float> floats = {1, -2};
  const std::vector<double> doubles = {0.5, 1};
  const std::vector<c10::BFloat16> halves = {c10::BFloat16(4.0f), c10::BFloat16(-1.0f)};
  sink.add(0, std::span<const float>(floats), 1);
  sink.add(0, std::span<const double>(doubles), 1);
  sink.add(0, std::span<const c10::BFloat16>(halves), 0.5);
  EXPECT_EQ(sum, (std::vector<int32_t>{10 + 2 + 1 + 4, 20 - 4 + 2 - 1}));
}

}  // namespace
}  // namespace dpfa::kernels
