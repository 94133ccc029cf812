// The check of a step on a GPU, with both steps on the CPU: it finds that they agree, and every difference.
#include "tests/device/step_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "src/device/library_kernels.h"
#include "tests/device/host_kernels.h"

namespace dpfa::test {
namespace {

using device::NormChoice;

StepSide::MakeKernels loops(KernelCalls* calls = nullptr) {
  return [calls](at::ScalarType compute, std::span<const kernels::DecayRange> decay, int64_t) {
    StepSide::Kernels kernels;
    kernels.push_back(make_host_kernels(device::element_of(compute), decay, calls));
    return kernels;
  };
}

StepSide::MakeKernels library() {
  return [](at::ScalarType compute, std::span<const kernels::DecayRange> decay, int64_t) {
    StepSide::Kernels kernels;
    kernels.push_back(make_host_kernels(device::element_of(compute), decay));
    kernels.push_back(device::make_library_kernels(compute, at::kCPU, *kernels.front()));
    return kernels;
  };
}

const StepSide kTrusted = {"loops", at::kCPU, loops()};
constexpr StepDistance kTolerance = {0x1p-8, 0x1p-8, 0x1p-8};  // a Gram norm is an upper bound

std::string text(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

TEST(StepCheck, FindsThatEveryMethodAgreesWithLoops) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16})
    for (const bool tied : {true, false}) {
      StepReport report;
      for (const NormChoice norms : {NormChoice::kGram, NormChoice::kMaterialise})
        compare_steps(
            {compute, tied, {"loops, other method", at::kCPU, loops(), norms}, kTrusted, kTolerance}, report);
      compare_steps({compute, tied, {"LibTorch", at::kCPU, library()}, kTrusted, kTolerance}, report);
      compare_steps({compute,
                     tied,
                     {"recomputed", at::kCPU, loops(), NormChoice::kDirect, /*recompute=*/true},
                     kTrusted,
                     kTolerance},
                    report);
      EXPECT_EQ(text(report.differences), "");
      EXPECT_EQ(report.compared.size(), 4u * 8) << text(report.compared);
    }
}

// Of the same loops in two types, head tied or not.
StepDistance distance_of(at::ScalarType a, at::ScalarType b) {
  StepDistance most = {};
  for (const bool tied : {true, false}) {
    StepSide other = kTrusted;
    other.compute = b;
    const StepDistance d = distance_between({a, tied, kTrusted, other, {}});
    most = {std::max(most.norm, d.norm), std::max(most.factor, d.factor), std::max(most.sum, d.sum)};
  }
  return most;
}

bool is_below(const StepDistance& a, double times, const StepDistance& b) {
  return a.norm * times < b.norm && a.factor * times < b.factor && a.sum * times < b.sum;
}
std::string text(const StepDistance& d) {
  std::ostringstream all;
  all << d.norm << ", " << d.factor << ", " << d.sum;
  return all.str();
}

// What the tolerances of a GPU's steps are made of.
TEST(StepCheck, ToleratesTwiceTheRoundingOfATypeAndNoCoarserType) {
  const StepDistance bf16 = distance_of(at::kBFloat16, at::kFloat),
                     f32 = distance_of(at::kFloat, at::kDouble);
  EXPECT_TRUE(is_below(bf16, 2, kBf16AcrossDevices)) << text(bf16);
  EXPECT_TRUE(is_below(f32, 16, kF32AcrossDevices)) << text(f32);
  EXPECT_TRUE(is_below(kF32AcrossDevices, 8, bf16)) << text(bf16);
  EXPECT_GT(f32.norm, 0);
}

struct Mistake {
  const char* found;  // in the line of a difference
  StepSide tested;
};

TEST(StepCheck, FindsWhatDiffers) {
  KernelCalls more, less;
  more.drift = 1.02;
  less.left_out = "position_squares";
  const std::vector<Mistake> mistakes = {
      {"norms within", {"norms that grow", at::kCPU, loops(&more)}},
      {"another norm among others", {"norms that grow", at::kCPU, loops(&more)}},
      {"nothing was added", {"a part that is not measured", at::kCPU, loops(&less)}},
      {"factors within",
       {"another clipping norm", at::kCPU, loops(), NormChoice::kDirect, false,
        [](device::StepNumbers& numbers) { numbers.max_grad_norm *= 1.1; }}},
      {"sum of integers within",
       {"another grid", at::kCPU, loops(), NormChoice::kDirect, false,
        [](device::StepNumbers& numbers) { numbers.grid_exponent += 1; }}},
      {"release of one sum: weights differ",
       {"other noise", at::kCPU, loops(), NormChoice::kDirect, false,
        [](device::StepNumbers& numbers) { numbers.noise.stddev_in_grid_units *= 1.01; }}},
  };
  for (const Mistake& mistake : mistakes) {
    StepReport report;
    compare_steps({at::kFloat, true, mistake.tested, kTrusted, kTolerance}, report);
    EXPECT_NE(text(report.differences).find(mistake.found), std::string::npos)
        << mistake.tested.name << ": " << text(report.differences);
  }
}

}  // namespace
}  // namespace dpfa::test
