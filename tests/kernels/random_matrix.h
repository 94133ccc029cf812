#pragma once

#include <ATen/ATen.h>

#include <random>

namespace dpfa::kernels {

// Standard normals (rows, columns), f64.
inline at::Tensor random_matrix(int64_t rows, int64_t columns, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  at::Tensor result = at::empty({rows, columns}, at::kDouble);
  for (int64_t i = 0; i < rows * columns; ++i) result.data_ptr<double>()[i] = normal(random);
  return result;
}

}  // namespace dpfa::kernels
