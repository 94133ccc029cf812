#pragma once

#include "src/plan/config.h"

namespace dpfa::plan {

inline constexpr int64_t kParameters = 100000;

// A run whose noise is given and whose target is not.
inline PrivacyConfig given_noise() {
  PrivacyConfig privacy;
  privacy.noise_multiplier = 1.1;
  privacy.target_delta = 1e-5;
  privacy.dataset_size = 2000;
  privacy.expected_batch_size = 64;
  privacy.steps = 30;
  return privacy;
}

}  // namespace dpfa::plan
