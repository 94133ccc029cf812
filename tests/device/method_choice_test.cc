// The choice among the three methods with kernels on host memory, which are timed like a GPU's.
#include "src/device/method_choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "src/device/gpt2.h"
#include "src/device/library_kernels.h"
#include "tests/device/host_kernels.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::device {
namespace {

using kernels::MatrixShape;
using kernels::NormMethod;

const std::vector<kernels::DecayRange> kDecay = {{0, 1, true}};
constexpr plan::Gpt2Shape kShape = {
    .layers = 2, .width = 16, .heads = 2, .positions = 20, .vocab = 61, .tied_head = true};

std::vector<MatrixShape> shapes_of_model(at::ScalarType compute) {
  std::vector<MatrixShape> shapes;
  for (const MatrixParameter& m : matrices_of(kShape)) {
    shapes.push_back({12, m.inputs, m.outputs, m.output_major, compute});
    shapes.back().tied = m.tied;
  }
  return shapes;
}

class MethodChoice : public ::testing::Test {
 protected:
  std::vector<NormMethod> choose(at::ScalarType compute, const MethodSettings& settings,
                                 bool library = false) {
    const kernels::Element element =
        compute == at::kBFloat16 ? kernels::Element::kBFloat16 : kernels::Element::kFloat;
    const auto host = test::make_host_kernels(element, kDecay, &calls_);
    const auto torch = make_library_kernels(compute, at::kCPU, *host);
    MethodSettings logged = settings;
    logged.file = file_;
    logged.log = [this](const std::string& line) { lines_.push_back(line); };
    return choose_methods(shapes_of_model(compute), 4, logged, library ? *torch : *host, at::kCPU);
  }
  // Times of a shape, whatever number of its gradients is kept.
  void know(const std::string& shape, const std::string& times) const {
    std::ofstream file(file_, std::ios::app);
    for (int kept = 0; kept <= 4; ++kept)
      file << "loops/T12/" << shape << "/examples4/kept" << kept << '\t' << times << '\n';
  }
  std::vector<std::string> kept_lines() const {
    std::vector<std::string> kept;
    std::ifstream file(file_);
    for (std::string line; std::getline(file, line);) kept.push_back(line);
    return kept;
  }

  dpfa::testing::TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "methods.txt";
  test::KernelCalls calls_;
  std::vector<std::string> lines_;
};

// Head, output, fc, projection and qkv: five shapes of nine matrices.
TEST_F(MethodChoice, MeasuresEachShapeOnceForEachDeviceAndType) {
  const std::vector<NormMethod> first = choose(at::kBFloat16, {});
  ASSERT_EQ(first.size(), 9u);
  EXPECT_EQ(kept_lines().size(), 5u);
  EXPECT_GT(calls_.gram, 0);
  EXPECT_GT(calls_.direct, 0);
  EXPECT_GT(calls_.kept, 0);
  const int64_t measured = calls_.gram + calls_.direct + calls_.kept;
  EXPECT_EQ(choose(at::kBFloat16, {}), first);
  EXPECT_EQ(calls_.gram + calls_.direct + calls_.kept, measured) << "measured again";
  choose(at::kFloat, {});
  EXPECT_EQ(kept_lines().size(), 10u);
  choose(at::kFloat, {}, /*library=*/true);
  ASSERT_EQ(kept_lines().size(), 15u);
  EXPECT_EQ(kept_lines().front().substr(0, 6), "loops/");
  EXPECT_EQ(kept_lines().back().substr(0, 15), "loops/LibTorch/");
  choose(at::kFloat, {.measurements = 2});
  ASSERT_EQ(kept_lines().size(), 20u);
  EXPECT_EQ(kept_lines().back().substr(0, 16), "loops/measured2/");
  ASSERT_EQ(lines_.size(), 5u);  // one for each choice
  EXPECT_EQ(lines_.front().find("gradient norms on loops, by measurement: "), 0u) << lines_.front();
  EXPECT_NE(lines_.front().find(" x T12/16x48/bf16 "), std::string::npos) << lines_.front();
}

TEST_F(MethodChoice, FollowsTheTimesAndTheBudget) {
  know("16x61/fp32/out/tied", "1 2 3");
  know("64x16/fp32", "2 1 3");
  know("16x64/fp32", "3 2 1");
  know("16x16/fp32", "1 2 3");
  know("16x48/fp32", "4 5 1");
  const auto kGram = NormMethod::kGram, kDirect = NormMethod::kDirect, kKept = NormMethod::kMaterialise;
  EXPECT_EQ(choose(at::kFloat, {.budget_bytes = 1 << 20}),
            (std::vector{kGram, kDirect, kKept, kGram, kKept, kDirect, kKept, kGram, kKept}));
  // 4 examples of the two 16 x 48 of f32, which save most per byte.
  EXPECT_EQ(choose(at::kFloat, {.budget_bytes = 2 * 4 * 4 * 16 * 48}),
            (std::vector{kGram, kDirect, kDirect, kGram, kKept, kDirect, kDirect, kGram, kKept}));
  EXPECT_EQ(choose(at::kFloat, {.budget_bytes = 1})[4], kGram);
  EXPECT_EQ(calls_.gram + calls_.direct + calls_.kept, 0) << "measured although all times were known";
}

// bf16 operands: a kept number takes two bytes.
TEST_F(MethodChoice, CountsKeptGradientsInTheOperandsType) {
  for (const char* shape : {"16x61/bf16/out/tied", "64x16/bf16", "16x64/bf16", "16x16/bf16", "16x48/bf16"})
    know(shape, "2 2 1");
  int64_t bytes = 0;
  for (const MatrixShape& shape : shapes_of_model(at::kBFloat16))
    bytes += 4 * 2 * shape.inputs * shape.outputs;
  const std::vector<NormMethod> all(9, NormMethod::kMaterialise);
  EXPECT_EQ(choose(at::kBFloat16, {.budget_bytes = bytes}), all);
  EXPECT_NE(choose(at::kBFloat16, {.budget_bytes = bytes - 1}), all);
}

TEST_F(MethodChoice, IsWhatWasAskedForAndIsLogged) {
  for (const auto& [choice, method] : {std::pair{NormChoice::kGram, NormMethod::kGram},
                                       {NormChoice::kDirect, NormMethod::kDirect},
                                       {NormChoice::kMaterialise, NormMethod::kMaterialise}}) {
    lines_.clear();
    EXPECT_EQ(choose(at::kFloat, {.norms = choice}), std::vector<NormMethod>(9, method));
    const std::string name = to_string(method);
    EXPECT_EQ(lines_, (std::vector{"gradient norms on loops, as asked for: 2 x T12/16x16/fp32 " + name +
                                   "; 2 x T12/16x48/fp32 " + name + "; 1 x T12/16x61/fp32/out/tied " + name +
                                   "; 2 x T12/16x64/fp32 " + name + "; 2 x T12/64x16/fp32 " + name + ";"}));
  }
  EXPECT_TRUE(kept_lines().empty());
}

TEST_F(MethodChoice, NeverTakesGramNormsOfKernelsThatHaveNone) {
  for (const NormMethod method : choose(at::kFloat, {}, /*library=*/true))
    EXPECT_NE(method, NormMethod::kGram);
}

// Of a tied table the rows of the embedding are part of what is measured and added.
TEST_F(MethodChoice, EveryMethodTakesTheTimeOfWhatAStepDoes) {
  const auto host = test::make_host_kernels(kernels::Element::kFloat, kDecay, &calls_);
  for (const bool tied : {false, true})
    for (int m = 0; m < kernels::kNormMethods; ++m) {
      const auto method = static_cast<NormMethod>(m);
      MatrixShape shape = {12, 16, 48, tied || m == 1, at::kFloat};
      shape.tied = tied;
      calls_.counts.clear();
      const double seconds = method_seconds(*host, at::kCPU, shape, method);
      EXPECT_TRUE(std::isfinite(seconds) && seconds > 0) << seconds;
      EXPECT_EQ(calls_.counts["cross_terms"], tied && method == NormMethod::kGram ? 6 : 0);
      EXPECT_EQ(calls_.counts["embedding_rows"], tied ? 1 : 0);
    }
}

}  // namespace
}  // namespace dpfa::device
