// What holds of clipped sums of products, sum_b c_b x_b^T g_b, on every backend: the CPU's routes and the
// suite of a GPU run the same shapes against the same sums in double.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/made_rows.h"

namespace dpfa::kernels::made {

// A matrix whose gradient of one example is x^T g: (x.columns, g.columns), row-major. Matrices lie one behind
// another in the flat parameter vector.
struct Product {
  Matrix x, g;
};

inline constexpr int kSumExponent = -20;  // integers are in units of 2^kSumExponent

struct ClippedSum {
  std::vector<double> norms, factors;  // (B); the norm is over all matrices
  std::vector<int32_t> integers;       // (P)
};

struct ClippingBackend {
  std::string name;
  // Example b owns rows [offsets[b], offsets[b + 1]); those that are not selected (B) add nothing.
  std::function<ClippedSum(const std::vector<Product>&, const std::vector<int64_t>& offsets,
                           const std::vector<uint8_t>& selected, double max_grad_norm)>
      clip;
  double relative;  // an element may be off by so much of the sum of its terms' magnitudes
};

void every_example_is_added_with_its_own_factor(Failures& f, const ClippingBackend& backend);
void integers_of_a_batch_are_those_of_its_examples_alone(Failures& f, const ClippingBackend& backend);
void an_example_that_is_not_finite_adds_nothing(Failures& f, const ClippingBackend& backend);

}  // namespace dpfa::kernels::made
