// Cases that need a GPU, as plain functions: suite_test.cc runs them under GoogleTest, suite_main.cc without.
//
// Shapes and inputs are those of the CPU's tests: lengths on both sides of a tile, records without tokens,
// widths that are no multiple of anything, tokens that cancel, outliers, numbers that are not finite. The
// reference is double precision on the host, on the same bfloat16 operands.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/made_rows.h"

namespace dpfa::kernels::cuda::suite {

using namespace made;

struct Case {
  std::string name;
  std::function<void(Failures&)> run;
};

std::vector<Case> gram_cases();
std::vector<Case> product_cases();
std::vector<Case> clipping_cases();
std::vector<Case> reducer_cases();
std::vector<Case> noise_cases();
std::vector<Case> example_cases();
std::vector<Case> pass_cases();    // tests/comm/cuda
std::vector<Case> bucket_cases();  // the same; none where NCCL is not built

inline std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& cases : {gram_cases(), product_cases(), clipping_cases(), reducer_cases(), noise_cases(),
                            example_cases(), pass_cases(), bucket_cases()})
    all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

}  // namespace dpfa::kernels::cuda::suite
