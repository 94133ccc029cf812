// Every file in configs/ is a configuration that a run accepts, and plans what its comments promise.
#include <cstdlib>
#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

#include "accounting/accountant.h"
#include "src/plan/config.h"
#include "src/plan/plan.h"

namespace dpfa::plan {
namespace {

constexpr int64_t kParameters = 1'000'000;  // the noise multiplier does not depend on it

std::vector<std::filesystem::path> shipped_configs() {
  const char* source = std::getenv("DPFA_SOURCE_DIR");
  std::vector<std::filesystem::path> files;
  if (source == nullptr) return files;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(source) / "configs")) {
    if (entry.path().extension() == ".ini") files.push_back(entry.path());
  }
  return files;
}

TEST(ShippedConfigs, AreFound) { EXPECT_GE(shipped_configs().size(), 4U); }

TEST(ShippedConfigs, ParseAndNameTheirDataAndOutput) {
  for (const auto& file : shipped_configs()) {
    SCOPED_TRACE(file.string());
    const Config config = load_config(file, {});
    EXPECT_FALSE(config.data.train.empty());
    EXPECT_FALSE(config.output.dir.empty());
  }
}

TEST(ShippedConfigs, ArePrivateAndStayWithinTheirTargetEpsilon) {
  for (const auto& file : shipped_configs()) {
    SCOPED_TRACE(file.string());
    const Config config = load_config(file, {});
    ASSERT_TRUE(config.privacy.enabled);
    ASSERT_TRUE(config.privacy.target_epsilon.has_value());
    const PrivacyPlan plan = PrivacyPlan::derive(config.privacy, config.aggregation, kParameters,
                                                 config.runtime.constant_step_slots);
    const double epsilon = plan.epsilon_of(plan.event(), plan.max_charges()).epsilon;
    EXPECT_LE(epsilon, *config.privacy.target_epsilon);
    EXPECT_GT(epsilon, 0.98 * *config.privacy.target_epsilon);
    EXPECT_TRUE(plan.warnings().empty());
  }
}

TEST(ShippedConfigs, AreRefusedWithAKeyThatDoesNotExist) {
  for (const auto& file : shipped_configs()) {
    SCOPED_TRACE(file.string());
    EXPECT_ANY_THROW(load_config(file, {{"privacy.noise_multipler", "1"}}));
  }
}

}  // namespace
}  // namespace dpfa::plan
