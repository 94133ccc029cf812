#include "kernels/norm_method.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>

#include "kernels/norm_route.h"
#include "src/base/error.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::kernels {
namespace {

MatrixShape shape_of(int64_t inputs, int64_t outputs) { return {64, inputs, outputs, false, at::kFloat}; }

double total(std::span<const MethodSeconds> seconds, std::span<const NormMethod> methods) {
  double sum = 0;
  for (size_t k = 0; k < methods.size(); ++k) sum += seconds[k][static_cast<size_t>(methods[k])];
  return sum;
}

int64_t kept_bytes(std::span<const MatrixShape> shapes, std::span<const NormMethod> methods,
                   int64_t examples) {
  int64_t bytes = 0;
  for (size_t k = 0; k < methods.size(); ++k)
    if (methods[k] == NormMethod::kMaterialise) bytes += 4 * examples * shapes[k].inputs * shapes[k].outputs;
  return bytes;
}

TEST(ChooseMethods, TakesTheFastestOfEachMatrixWhereMemoryDoesNotMatter) {
  const std::vector<MatrixShape> shapes = {shape_of(8, 8), shape_of(8, 16), shape_of(16, 8)};
  const std::vector<MethodSeconds> seconds = {{1, 2, 3}, {2, 1, 3}, {3, 2, 1}};
  EXPECT_EQ(choose_methods(shapes, seconds, 4, 1 << 30),
            (std::vector{NormMethod::kGram, NormMethod::kDirect, NormMethod::kMaterialise}));
  EXPECT_EQ(choose_methods(shapes, seconds, 4, 0),
            (std::vector{NormMethod::kGram, NormMethod::kDirect, NormMethod::kDirect}));
}

TEST(ChooseMethods, NeverExceedsTheBudgetAndIsTheBestChoiceForMatricesOfOneSize) {
  std::mt19937_64 random(1);
  for (int run = 0; run < 200; ++run) {
    std::vector<MatrixShape> shapes(6, shape_of(16, 32));
    std::vector<MethodSeconds> seconds;
    for (size_t k = 0; k < shapes.size(); ++k)
      seconds.push_back({1.0 + static_cast<double>(random() % 100), 1.0 + static_cast<double>(random() % 100),
                         1.0 + static_cast<double>(random() % 100)});
    const int64_t examples = 3,
                  budget = static_cast<int64_t>(random() % 8) *
                               kept_bytes(shapes, std::vector{NormMethod::kMaterialise}, examples) +
                           5;
    const auto chosen = choose_methods(shapes, seconds, examples, budget);
    EXPECT_LE(kept_bytes(shapes, chosen, examples), budget);
    double best = 1e9;
    for (int code = 0; code < 729; ++code) {
      std::vector<NormMethod> methods;
      for (int k = 0, rest = code; k < 6; ++k, rest /= 3)
        methods.push_back(static_cast<NormMethod>(rest % 3));
      if (kept_bytes(shapes, methods, examples) <= budget) best = std::min(best, total(seconds, methods));
    }
    EXPECT_EQ(total(seconds, chosen), best);
  }
}

TEST(ChooseMethods, MatricesThatSaveMostPerByteAreKeptFirst) {
  const std::vector<MatrixShape> shapes = {shape_of(100, 100), shape_of(10, 10), shape_of(10, 10)};
  const std::vector<MethodSeconds> seconds = {{12, 12, 2}, {3, 3, 1}, {4, 4, 3}};
  EXPECT_EQ(choose_methods(shapes, seconds, 1, 900),
            (std::vector{NormMethod::kGram, NormMethod::kMaterialise, NormMethod::kMaterialise}));
  EXPECT_EQ(choose_methods(shapes, seconds, 1, 400),
            (std::vector{NormMethod::kGram, NormMethod::kMaterialise, NormMethod::kGram}));
}

class Times : public ::testing::Test {
 protected:
  MethodSeconds ask(const std::filesystem::path& file, const MatrixShape& shape) {
    return MethodTimes(file).of(shape, [&](const MatrixShape&, NormMethod method) {
      measured_ += method == NormMethod::kGram;
      return method == NormMethod::kGram ? 0.25 : measured_;
    });
  }
  dpfa::testing::TemporaryFolder folder_;
  int measured_ = 0;  // shapes
};

TEST_F(Times, OfAShapeAreMeasuredOnceForEachTypeAndThreadCount) {
  const std::filesystem::path file = folder_.path() / "new" / "methods.txt";
  const MatrixShape shape = shape_of(8, 16);
  const MethodSeconds first = ask(file, shape);
  EXPECT_EQ(ask(file, shape), first);
  EXPECT_EQ(measured_, 1);
  MatrixShape other = shape;
  other.compute = at::kBFloat16;
  ask(file, other);
  EXPECT_EQ(measured_, 2);
  other.output_major = true;
  ask(file, other);
  other.tokens = 65;
  ask(file, other);
  EXPECT_EQ(measured_, 4);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(threads + 1);
  ask(file, shape);
  omp_set_num_threads(threads);
  EXPECT_EQ(measured_, 5);
  EXPECT_EQ(ask(file, shape), first);
}

TEST_F(Times, OfAnotherMachineAreMeasuredAgain) {
  const std::filesystem::path file = folder_.path() / "methods.txt";
  const MatrixShape shape = shape_of(8, 16);
  int measured = 0;
  const auto measure = [&](const MatrixShape&, NormMethod) { return 1.0 + measured++; };
  for (const std::string machine : {"a GPU/sm90", "a GPU/sm90/LibTorch", "another GPU/sm90", "a GPU/sm90"})
    MethodTimes(file, machine).of(shape, measure);
  EXPECT_EQ(measured, 3 * kNormMethods);
}

TEST_F(Times, ThatCannotBeReadOrKeptAreMeasuredAgain) {
  const MatrixShape shape = shape_of(8, 16);
  ask({}, shape);
  ask({}, shape);
  EXPECT_EQ(measured_, 2);
  const std::filesystem::path file = folder_.path() / "methods.txt";
  ask(file, shape);
  std::stringstream kept;
  kept << std::ifstream(file).rdbuf();
  const std::string key = kept.str().substr(0, kept.str().find('\t'));
  for (const std::string values : {"", "\t", "\t1 2", "\t1 2 nan", "\t1 -2 3", "\tx y z"}) {
    std::ofstream(file, std::ios::trunc) << key << values << '\n';
    const int before = measured_;
    ask(file, shape);
    EXPECT_EQ(measured_, before + 1) << values;
  }
  const int before = measured_;
  EXPECT_EQ(ask(folder_.path(), shape)[0], 0.25);  // a folder is no file
  EXPECT_EQ(measured_, before + 1);
}

TEST_F(Times, OfWhatCannotBeChosenAreNotMeasured) {
  const std::filesystem::path file = folder_.path() / "methods.txt";
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const bool gram : {true, false})
    for (const int64_t kept : {0, 1}) {
      MatrixShape shape = shape_of(8, 16);
      shape.kept = kept;
      std::vector<NormMethod> measured;
      for (int run = 0; run < 2; ++run) {  // the second one reads them
        const MethodSeconds seconds = MethodTimes(file).of(
            shape, [&](const MatrixShape&, NormMethod method) { return measured.push_back(method), 0.5; },
            gram);
        EXPECT_EQ(seconds, (MethodSeconds{gram ? 0.5 : kInfinity, 0.5, kept > 0 ? 0.5 : kInfinity}));
      }
      std::vector<NormMethod> expected = {NormMethod::kDirect};
      if (gram) expected.insert(expected.begin(), NormMethod::kGram);
      if (kept > 0) expected.push_back(NormMethod::kMaterialise);
      EXPECT_EQ(measured, expected);
    }
}

// A measurement takes no more examples than a microbatch has, and no more memory than the run.
TEST(AutoMethod, MeasuresWithinTheMicrobatchAndTheBudget) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(32);
  constexpr int64_t kOne = 9 * 11 * 4;
  for (const int64_t slots : {1, 3, 200})
    for (const int64_t budget : {int64_t{0}, int64_t{1}, kOne, 3 * kOne + 1, 1000 * kOne}) {
      GradientRecords records;
      records.offsets = equal_offsets(slots, 1);
      records.linears.push_back({at::ones({slots, 9}), at::ones({slots, 11}), 0, false});
      int measured = 0;
      methods_of(shapes_of(records, 20), slots, {.method = "auto", .budget_bytes = budget},
                 [&](const MatrixShape& shape, NormMethod method) {
                   EXPECT_EQ(shape.examples, std::min<int64_t>(64, slots));
                   EXPECT_LE(shape.kept * shape.gradient_bytes(), budget == 0 ? kOne : budget);
                   EXPECT_TRUE(method != NormMethod::kMaterialise || shape.kept > 0);
                   ++measured;
                   return 1.0;
                 });
      EXPECT_EQ(measured, budget == 1 ? 2 : 3);
    }
  omp_set_num_threads(threads);
}

// A Gram norm may be measured again: the fastest of the other two is chosen where work must be constant, as
// where there are no kernels for Gram norms.
TEST(AutoMethod, NeitherMeasuresNorChoosesGramNormsForConstantWork) {
  GradientRecords records;
  records.offsets = equal_offsets(2, 1);
  records.linears.push_back({at::ones({2, 9}), at::ones({2, 11}), 0, false});
  int gram_norms = 0;
  const auto gram_is_fastest = [&](const MatrixShape&, NormMethod method) {
    gram_norms += method == NormMethod::kGram;
    return method == NormMethod::kGram ? 1.0 : method == NormMethod::kDirect ? 2.0 : 3.0;
  };
  NormMethodChoice choice = {.method = "auto"};
  const auto shapes = shapes_of(records, 20);
  EXPECT_EQ(methods_of(shapes, 2, choice, gram_is_fastest), std::vector{NormMethod::kGram});
  EXPECT_THROW(make_gram_route({.method = "gram", .constant_work = true}), InternalError);
  for (const auto& [constant_work, has_kernels] : {std::pair{true, true}, {false, false}}) {
    choice.constant_work = constant_work;
    choice.gram_norms = has_kernels;
    EXPECT_EQ(methods_of(shapes, 2, choice, gram_is_fastest), std::vector{NormMethod::kDirect});
  }
  EXPECT_EQ(gram_norms, 1) << "measured although they cannot be chosen";
}

TEST(AutoMethod, ATiedTableIsMeasuredWithTheRowsOfItsEmbedding) {
  const std::vector<int64_t> ids(4, 1);
  GradientRecords records;
  records.offsets = equal_offsets(2, 2);
  records.linears.push_back({at::ones({4, 9}), at::ones({4, 11}), 0, true});
  records.linears.push_back({at::ones({4, 9}), at::ones({4, 11}), 0, true});
  records.embeddings.push_back({ids, at::ones({4, 9}), 0, 99, 1});
  const std::vector<MatrixShape> shapes = shapes_of(records, 20);
  EXPECT_EQ(shapes[0].key(), "T20/9x11/fp32/out");
  EXPECT_EQ(shapes[1].key(), "T20/9x11/fp32/out/tied");
  for (int m = 0; m < kNormMethods; ++m) {
    const double seconds = method_seconds(shapes[1], static_cast<NormMethod>(m));
    EXPECT_TRUE(std::isfinite(seconds) && seconds > 0) << seconds;
  }
}

// Every matrix by measurement: the norms are those of any method, and the choice is told.
TEST(AutoMethod, MeasuresChoosesAndSaysSo) {
  GradientRecords records;
  records.offsets = equal_offsets(3, 20);
  records.linears.push_back({at::ones({60, 9}), at::ones({60, 11}), 0, false});
  records.linears.push_back({at::ones({60, 11}), at::ones({60, 9}), 99, true});
  const std::vector<uint8_t> selected(3, 1);
  std::vector<double> sum(198);
  DoubleSink sink(sum);
  std::vector<ExampleOutcome> outcomes(3);
  std::vector<std::string> lines;
  const auto route = make_gram_route(
      {.method = "auto", .tokens = 20, .log = [&](const std::string& line) { lines.push_back(line); }});
  for (int run = 0; run < 2; ++run) {
    route->accumulate(records, selected, 1, sink, outcomes);
    for (const ExampleOutcome& outcome : outcomes) EXPECT_NEAR(outcome.norm, 20 * std::sqrt(198.0), 1e-2);
  }
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("T20/9x11/fp32"), std::string::npos) << lines[0];
}

}  // namespace
}  // namespace dpfa::kernels
