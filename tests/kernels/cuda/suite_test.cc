#include <gtest/gtest.h>

#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {
namespace {

class Gpu : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (device_count() == 0) GTEST_SKIP() << "no GPU here: " << GetParam().name << " did not run";
  }
};

TEST_P(Gpu, Case) {
  Failures failures;
  GetParam().run(failures);
  EXPECT_EQ(failures.text(), "");
}

INSTANTIATE_TEST_SUITE_P(Kernels, Gpu, ::testing::ValuesIn(all_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace dpfa::kernels::cuda::suite
