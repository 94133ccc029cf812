// The ways in which a step may run, against each other: methods of norms, activations kept or recomputed.
#include <gtest/gtest.h>

#include "kernels/norm_route.h"
#include "src/base/error.h"
#include "tests/device/clipped_engine.h"

namespace dpfa::device {
namespace {

TEST(ClippedStep, MethodsAreMeasuredOnceForEachShapeOfMicrobatch) {
  std::vector<std::string> lines;
  Setting s = {.norms = NormChoice::kMeasured};
  s.methods.log = [&](const std::string& line) { lines.push_back(line); };
  Engine engine(s), direct({.norms = NormChoice::kDirect});
  int again = 0;
  size_t before = 0;
  for (const int64_t slots : {5, 5, 6, 6}) {
    engine.accumulate(kExamples, kSome, slots);
    direct.accumulate(kExamples, kSome, slots);
    if (before == lines.size()) ++again;
    before = lines.size();
    for (int64_t b = 0; b < 5; ++b)
      EXPECT_NEAR(ClippedStepAccess::norm(engine.step, b), ClippedStepAccess::norm(direct.step, b),
                  kernels::kGramSlack * ClippedStepAccess::norm(direct.step, b));
  }
  EXPECT_EQ(again, 2);
  EXPECT_EQ(lines.size(), 2u);
}

// bf16: an example adds the rounded numbers that its norm is of, whatever the rounding made of them.
TEST(ClippedStep, AKeptGradientIsMeasuredAsItIsKept) {
  for (const bool library : {false, true})
    for (const int64_t e : {0, 1, 2}) {
      Engine engine({.compute = at::kBFloat16,
                     .norms = NormChoice::kMaterialise,
                     .max_grad_norm = 0.1,
                     .library = library});
      engine.accumulate(kExamples, std::span(&e, 1), 1);
      EXPECT_NEAR(engine.norm() / 0.1, 1, 1e-6) << library << ", example " << e;
    }
}

TEST(ClippedStep, RecomputedLayersAddTheSameIntegers) {
  for (Setting s : settings()) {
    if (s.recompute) continue;
    Engine kept(s);
    s.recompute = true;
    Engine recomputed(s);
    for (Engine* engine : {&kept, &recomputed})
      for (const int64_t slots : {5, 6}) engine->accumulate(kExamples, kSome, slots);
    EXPECT_EQ(kept.sum(), recomputed.sum()) << s;
    EXPECT_GT(kept.norm(), 0);
  }
}

TEST(ClippedStep, ASecondPassWithOtherNumbersStops) {
  for (const NormChoice norms : {NormChoice::kGram, NormChoice::kDirect, NormChoice::kMaterialise}) {
    Engine engine({.norms = norms, .recompute = true});
    engine.calls.drift = 1 + 1e-12;
    EXPECT_THROW(engine.accumulate(kExamples, kSome, 5), InternalError);
    EXPECT_THROW(engine.step.release(kKey, 1, kAdamw), InternalError) << "the sum was released";
    Engine nobody({.norms = norms, .recompute = true});  // what contributes nothing may differ
    nobody.calls.drift = 1 + 1e-12;
    nobody.accumulate(kExamples, {}, 5);
    EXPECT_EQ(nobody.norm(), 0);
  }
}

}  // namespace
}  // namespace dpfa::device
