// What one record can do to the integer sum, on a whole model.
#include "src/privacy/clipper.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "tests/privacy/clipper_engine.h"

namespace dpfa::privacy {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<int64_t> minus(std::vector<int64_t> a, std::span<const int64_t> b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

const int64_t kOne[] = {0};

TEST(Clipper, NoRecordContributesMoreThanTheSensitivity) {
  const std::vector<Example> examples = made_examples();
  for (const std::string numerics : {"exact", "fp32"})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
      for (const bool tied : {true, false})
        for (const auto& [clip, scale] :
             {std::pair{0.1, 3.0}, {10.0, 3.0}, {10.0, 100.0}, {1.0, 1e-3}, {1.0, 100.0}, {1.0, 1e10}}) {
          const Setting setting{numerics, compute, tied, clip, scale};
          Engine engine(setting);
          for (const size_t e : {0, 5, 6, 7})
            EXPECT_LE(engine.norm(engine.sum(std::span(&examples[e], 1), kOne, 1)),
                      engine.plan().sensitivity())
                << setting << ", example " << e;
        }
}

// The plan knows no kernel; here both meet.
TEST(Clipper, ThePlansSlackForGramNormsIsAtLeastWhatTheRouteCertifies) {
  const double with = test::make_plan({.numerics = "fp32"}, 1000).slack(),
               without = test::make_plan({}, 1000).slack();
  EXPECT_GE(with - without, kernels::kGramSlack * (1 - 1e-12));
}

// A record that is clipped has the norm that the plan allows, not less: clipping is to C and not to something
// else.
TEST(Clipper, AClippedRecordHasTheClippingNorm) {
  const std::vector<Example> examples = made_examples();
  for (const std::string numerics : {"exact", "fp32"})
    for (const bool tied : {true, false}) {
      const Setting setting{.numerics = numerics, .tied = tied, .max_grad_norm = 0.1};
      Engine engine(setting);
      for (const size_t e : {0, 5, 6})
        EXPECT_NEAR(engine.norm(engine.sum(std::span(&examples[e], 1), kOne, 1)) / 0.1, 1,
                    engine.plan().slack())
            << setting << ", example " << e;
    }
}

// Every way from norms to a sum, by the automatic rule.
std::vector<Setting> automatic_settings(const std::vector<double>& scales) {
  std::vector<Setting> settings;
  for (const double clip : {0.1, 10.0})
    for (const double scale : scales) {
      Setting setting{.max_grad_norm = clip, .weight_scale = scale, .clipping = "automatic"};
      settings.push_back(setting);
      setting.execution.recompute_layers = true;
      settings.push_back(setting);
      setting.execution.recompute_layers = false;
      setting.constant_work = true;
      settings.push_back(setting);
      setting.constant_work = false;
      setting.numerics = "fp32";
      for (const std::string method : {"gram", "direct", "materialise"}) {
        setting.norm_method = method;
        settings.push_back(setting);
      }
    }
  return settings;
}

TEST(Clipper, AutomaticSumIsThatOfTheOraclesGradientsOverTheirNormsPlusGamma) {
  const std::vector<Example> examples = made_examples();
  const std::vector<int64_t> draw = {0, 6, 5, 8, 7};  // 8 has no targets
  for (const Setting& setting : automatic_settings({3.0, 1e-3})) {
    Engine engine(setting);
    std::vector<double> difference(engine.parameters());
    double all = 0;
    for (const int64_t e : {0, 6, 5, 7}) {
      const test::OracleGradient oracle = engine.oracle(examples[e]);
      const double factor = setting.max_grad_norm / (oracle.norm + 0.01);
      for (size_t i = 0; i < difference.size(); ++i) difference[i] += factor * oracle.gradient[i];
      all += factor * oracle.norm;
    }
    const std::vector<int64_t> sum = engine.sum(examples, draw, 2);
    for (size_t i = 0; i < sum.size(); ++i)
      difference[i] -= static_cast<double>(sum[i]) * engine.plan().grid();
    const double relative = 1e-4 + (setting.numerics == "fp32" ? kernels::kGramSlack : 0);
    const double rounding = 4 * std::sqrt(static_cast<double>(sum.size())) / 2 * engine.plan().grid();
    EXPECT_GT(all, 10 * rounding) << setting;
    EXPECT_LE(test::l2(std::span<const double>(difference)), relative * all + rounding) << setting;
  }
}

TEST(Clipper, AutomaticKeepsEveryRecordWithinTheSensitivity) {
  const std::vector<Example> examples = made_examples();
  for (Setting setting : automatic_settings({3.0, 1e-3, 100.0}))
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
      for (const bool tied : {true, false}) {
        setting.compute = compute;
        setting.tied = tied;
        Engine engine(setting);
        for (const float bad : {0.0f, 1e20f, kNan, kInf}) {
          if (bad != 0) engine.poison(bad);
          for (const size_t e : {0, 5, 7, 8, 9})
            EXPECT_LE(engine.norm(engine.sum(std::span(&examples[e], 1), kOne, 1)),
                      engine.plan().sensitivity())
                << setting << ", example " << e << ", weight " << bad;
        }
      }
}

TEST(Clipper, NonFiniteWeightsOfARowStayWithinTheSensitivity) {
  const std::vector<Example> examples = made_examples();
  for (const std::string numerics : {"exact", "fp32"})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
      for (const bool tied : {true, false})
        for (const float bad : {kNan, kInf, -kInf, 1e20f, 3e38f}) {
          const Setting setting{numerics, compute, tied};
          Engine engine(setting);
          engine.poison(bad);
          for (const size_t e : {0, 9})
            EXPECT_LE(engine.norm(engine.sum(std::span(&examples[e], 1), kOne, 1)),
                      engine.plan().sensitivity())
                << setting << ", " << bad << ", example " << e;
        }
}

// Untied: only the record that holds the token meets the non-finite row.
TEST(Clipper, ANonFiniteRecordChangesNothing) {
  const std::vector<Example> examples = made_examples();
  for (const std::string numerics : {"exact", "fp32"})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
      for (const float bad : {kNan, kInf}) {
        const Setting setting{.numerics = numerics, .compute = compute, .tied = false};
        Engine engine(setting);
        engine.poison(bad);
        // The poisoned record takes the place of an empty slot, so that no other record moves.
        const int64_t without[] = {0, 1, 2}, with[] = {0, 1, 2, 9};
        EXPECT_EQ(engine.sum(examples, with, 4), engine.sum(examples, without, 4)) << setting << ", " << bad;
        const int64_t alone[] = {9};
        EXPECT_EQ(engine.sum(examples, alone, 1), std::vector<int64_t>(engine.parameters())) << setting;
      }
}

// What inserting each of two records at the front, in the middle and at the end of a draw does to the integer
// sum, three to a microbatch: the whole draw is packed again, so later records move to other slots and
// microbatches.
struct Insertion {
  int64_t record;
  size_t place;
  std::vector<int64_t> change;
};
std::vector<Insertion> insertions(Engine& engine, const std::vector<Example>& examples) {
  const std::vector<int64_t> draw = {0, 6, 2, 5, 3, 8, 4};
  const std::vector<int64_t> before = engine.sum(examples, draw, 3);
  std::vector<Insertion> result;
  for (const int64_t record : {1, 5})
    for (const size_t place : {size_t{0}, draw.size() / 2, draw.size()}) {
      std::vector<int64_t> larger = draw;
      larger.insert(larger.begin() + static_cast<ptrdiff_t>(place), record);
      result.push_back({record, place, minus(engine.sum(examples, larger, 3), before)});
    }
  return result;
}

// At 1 a loss that is scaled by its neighbours leaves most norms where clipping puts them; at 3 it moves the
// sum by more than the sensitivity.
constexpr double kInsertionClips[] = {1, 3};

TEST(Clipper, AnInsertedRecordChangesTheSumByAtMostTheSensitivity) {
  const std::vector<Example> examples = made_examples();
  for (const std::string numerics : {"exact", "fp32"})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
      for (const auto& [clip, clipping] :
           {std::pair{kInsertionClips[0], "flat"}, {kInsertionClips[1], "flat"}, {1.0, "automatic"}}) {
        const Setting setting{
            .numerics = numerics, .compute = compute, .max_grad_norm = clip, .clipping = clipping};
        Engine engine(setting);
        for (const auto& [record, place, change] : insertions(engine, examples))
          EXPECT_LE(engine.norm(change), engine.plan().sensitivity())
              << setting << ", record " << record << ", place " << place;
      }
}

TEST(Clipper, AnInsertedRecordChangesTheSumByItsOwnContributionAlone) {
  const std::vector<Example> examples = made_examples();
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
    for (const double clip : kInsertionClips) {
      const Setting setting{.compute = compute, .max_grad_norm = clip};
      Engine engine(setting);
      for (const auto& [record, place, change] : insertions(engine, examples))
        EXPECT_EQ(change, engine.sum(examples, std::span(&record, 1), 3))
            << setting << ", record " << record << ", place " << place;
    }
}

TEST(Clipper, TheSumDoesNotDependOnTheMicrobatchSize) {
  const std::vector<Example> examples = made_examples();
  const std::vector<int64_t> draw = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  for (const auto& [numerics, compute] : {std::pair{"exact", at::kFloat},
                                          {"exact", at::kBFloat16},
                                          {"fp32", at::kFloat},
                                          {"fp32", at::kBFloat16}})
    for (const double rate : {0.0, 0.3}) {
      Engine engine({.numerics = numerics, .compute = compute});
      const model::Dropout dropout{rate, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), /*step=*/3};
      const std::vector<int64_t> expected = engine.sum(examples, draw, 1, &dropout);
      EXPECT_GT(engine.norm(expected), 0);
      for (const int64_t slots : {3, 4, 16})
        EXPECT_EQ(engine.sum(examples, draw, slots, &dropout), expected)
            << slots << " slots, dropout " << rate;
    }
}

TEST(Clipper, TheSumIsThatOfTheRecordsWhateverTheirOrder) {
  const std::vector<Example> examples = made_examples();
  Engine engine({});
  std::vector<int64_t> expected(engine.parameters());
  for (int64_t record = 0; record < 10; ++record) {
    const std::vector<int64_t> one = engine.sum(examples, std::span(&record, 1), 1);
    for (size_t i = 0; i < one.size(); ++i) expected[i] += one[i];
  }
  const std::vector<int64_t> order = {9, 3, 7, 1, 5, 8, 6, 4, 2, 0};
  EXPECT_EQ(engine.sum(examples, order, 4), expected);
}

TEST(Clipper, TheSumDoesNotDependOnTheNumberOfThreads) {
  const int before = omp_get_max_threads();
  const std::vector<Example> examples = made_examples();
  const std::vector<int64_t> draw = {0, 1, 5, 6, 8, 9};
  for (const std::string numerics : {"exact", "fp32"})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      Engine engine({.numerics = numerics, .compute = compute});
      omp_set_num_threads(1);
      const std::vector<int64_t> expected = engine.sum(examples, draw, 3);
      for (const int threads : {2, 3, 7}) {
        omp_set_num_threads(threads);
        EXPECT_EQ(engine.sum(examples, draw, 3), expected) << numerics << ", " << threads << " threads";
      }
    }
  omp_set_num_threads(before);
}

// Every gradient of a recomputed model has the bits of the model that keeps its activations; norms add up the
// same numbers in another order, so a factor may differ by its last bits and a sum by a grid unit.
TEST(Clipper, AModelThatRecomputesItsLayersAddsTheSame) {
  const std::vector<Example> examples = made_examples();
  const std::vector<int64_t> draw = {0, 1, 5, 6, 8, 9};
  for (const bool tied : {true, false})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      const model::Dropout dropout{0.3, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), /*step=*/3};
      Engine engine({.compute = compute, .tied = tied});
      Engine recomputes({.compute = compute, .tied = tied, .execution = {.recompute_layers = true}});
      const std::vector<int64_t> expected = engine.sum(examples, draw, 3, &dropout);
      const std::vector<int64_t> difference = minus(recomputes.sum(examples, draw, 3, &dropout), expected);
      for (const int64_t units : difference) EXPECT_LE(std::abs(units), static_cast<int64_t>(draw.size()));
      ASSERT_TRUE(recomputes.clipper().self_test(3, kTokens));
      EXPECT_EQ(recomputes.sum(examples, draw, 2, &dropout), recomputes.sum(examples, draw, 6, &dropout));
      const int64_t poisoned[] = {9};
      recomputes.poison(kNan);
      EXPECT_EQ(recomputes.sum(examples, poisoned, 1), std::vector<int64_t>(engine.parameters()));
    }
}

TEST(Clipper, RecordsWithoutTargetsAndEmptySlotsAddNothing) {
  const std::vector<Example> examples = made_examples();
  const std::vector<Example> no_tokens = {{}};
  for (const auto& [numerics, execution] : {std::pair<std::string, model::Execution>{"exact", {}},
                                            {"fp32", {}},
                                            {"exact", {.recompute_layers = true}},
                                            {"exact", {.attention = kernels::AttentionPath::kExact}}}) {
    Engine engine({.numerics = numerics, .execution = execution});
    const std::vector<int64_t> zero(engine.parameters());
    const int64_t without_targets[] = {8};
    EXPECT_EQ(engine.sum(examples, without_targets, 3), zero);
    EXPECT_EQ(engine.sum(examples, {}, 3), zero);
    ClippedSum sum = engine.clipper().zero();
    engine.clipper().accumulate(test::pack(examples, {}, 3, kTokens), nullptr, sum);  // three empty slots
    engine.clipper().accumulate(test::pack(examples, {}, 0, kTokens), nullptr, sum);  // no slots
    engine.clipper().accumulate(test::pack(no_tokens, kOne, 1, 0), nullptr, sum);     // no tokens
    EXPECT_EQ(ClippedSumAccess::total(sum), zero) << numerics;
  }
}

TEST(Clipper, SelfTestFindsSlotsThatDoNotMatter) {
  for (const std::string numerics : {"exact", "fp32"})
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      Engine engine({.numerics = numerics, .compute = compute});
      for (const int64_t slots : {1, 2, 5})
        EXPECT_TRUE(engine.clipper().self_test(slots, kTokens)) << numerics << ", " << slots;
    }
}

// Five records make no pair by themselves where one of them stands in front.
TEST(Clipper, SelfTestTriesPairsOfEqualLengthsAmongOthers) {
  for (const int64_t slots : {4, 5, 7}) EXPECT_TRUE(Engine({}).clipper().self_test(slots, kTokens)) << slots;
}

TEST(Clipper, SelfTestTriesManyLengths) {
  for (const std::string numerics : {"exact", "fp32"})
    for (const int64_t slots : {3, 5, 40})  // more than kTokens: the last records have one token
      EXPECT_TRUE(Engine({.numerics = numerics}).clipper().self_test(slots, kTokens)) << numerics << slots;
}

TEST(Clipper, SelfTestTriesTheDropoutOfTheRun) {
  for (const std::string numerics : {"exact", "fp32"})
    EXPECT_TRUE(Engine({.numerics = numerics}).clipper().self_test(3, kTokens, /*dropout_rate=*/0.3))
        << numerics;
}

// Later steps may clip what the first does not: the norm itself must not depend on the slot.
TEST(Clipper, SelfTestSeesTheNormsOfRecordsThatAreNotClipped) {
  Engine engine({.numerics = "fp32", .max_grad_norm = 1e6});
  EXPECT_TRUE(engine.clipper().self_test(3, kTokens));
}

TEST(Clipper, TokenSumWeighsEachTargetByOneAndTokenMeanByTheirNumber) {
  const std::vector<Example> examples = made_examples();
  const int64_t which[] = {0, 6, 8};
  const data::Microbatch packed = test::pack(examples, which, 4, kTokens);
  EXPECT_EQ(loss_weights(packed, "token_mean"), (std::vector<double>{1.0 / kTokens, 1.0 / 3, 0, 0}));
  EXPECT_EQ(loss_weights(packed, "token_sum"), (std::vector<double>{1, 1, 0, 0}));
}

}  // namespace
}  // namespace dpfa::privacy
