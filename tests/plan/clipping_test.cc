#include <gtest/gtest.h>

#include <string>

#include "src/plan/plan.h"
#include "tests/plan/given_noise.h"

namespace dpfa::plan {
namespace {

// What it costs and what the noise is follow from the norm that no contribution exceeds, which is the same.
TEST(PlanOfAutomaticClipping, DiffersFromThatOfFlatByTheNameOfTheRuleAlone) {
  for (const std::string noise : {"after_sum", "shares"})
    for (const std::string numerics : {"exact", "fp32"}) {
      PrivacyConfig privacy = given_noise();
      privacy.noise_multiplier.reset();
      privacy.target_epsilon = 3;
      privacy.numerics = numerics;
      privacy.max_grad_norm = 0.3;
      AggregationConfig aggregation;
      aggregation.noise = noise;
      aggregation.ranks = 2;
      const PrivacyPlan flat = PrivacyPlan::derive(privacy, aggregation, kParameters);
      privacy.clipping = "automatic";
      const PrivacyPlan automatic = PrivacyPlan::derive(privacy, aggregation, kParameters);
      nlohmann::json renamed = flat.to_json();
      EXPECT_EQ(renamed.at("clipping"), "flat");
      renamed["clipping"] = "automatic";
      EXPECT_EQ(automatic.to_json(), renamed);
      EXPECT_NE(automatic.digest(), flat.digest());
      const PrivacyPlan again = PrivacyPlan::from_json(automatic.to_json());
      EXPECT_EQ(again.digest(), automatic.digest());
      EXPECT_EQ(again.clipping(), "automatic");
      EXPECT_NE(automatic.statement().find("max_grad_norm / (N + 0.01)"), std::string::npos);
      EXPECT_EQ(flat.statement().find("automatic"), std::string::npos);
    }
}

// A ledger's plan is compared field by field and by its digest: that of flat clipping must not change.
TEST(PlanOfFlatClipping, HasTheDigestOfLedgersThatExist) {
  EXPECT_EQ(PrivacyPlan::derive(given_noise(), {}, kParameters).digest(),
            "fe00d8c1bb3a3c86f851db52a682ca43f1ad0592e854a207df745d167604ea54");
}

}  // namespace
}  // namespace dpfa::plan
