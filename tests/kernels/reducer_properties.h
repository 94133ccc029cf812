// What holds of the per-example gradients of bias and normalisation vectors on every backend.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/made_rows.h"

namespace dpfa::kernels::made {

struct NormalisedRows {
  Matrix g, x;                    // (N, n)
  std::vector<float> mean, rstd;  // (N)
};

// (B, n) each: of a bias, of the gain and shift of LayerNorm, of the gain of RMSNorm.
struct VectorGradients {
  std::vector<double> bias, gain, shift, rms;
};

struct ReducerBackend {
  std::string name;
  double relative;  // of a sum of three roundings each, to the sum of magnitudes
  // Example b owns rows [offsets[b], offsets[b + 1]).
  std::function<VectorGradients(const NormalisedRows&, const std::vector<int64_t>& offsets)> reduce;
};

void vectors_are_the_sums_over_tokens(Failures& f, const ReducerBackend& backend);
void vectors_of_an_example_have_their_bits_in_any_batch(Failures& f, const ReducerBackend& backend);

}  // namespace dpfa::kernels::made
