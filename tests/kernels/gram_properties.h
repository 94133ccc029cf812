// What holds of per-example norms from Gram matrices on every backend: the CPU's tests and the suite of a GPU
// run the same shapes against the same sums in double.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/made_rows.h"

namespace dpfa::kernels::made {

// A matrix whose outputs are `groups` equal blocks, each a unit with a norm of its own, with or without the
// gradient of its bias.
struct Layer {
  Matrix x, g;
  int64_t groups = 1;
  bool bias = false;
};

struct UnitNorm {
  double squared = 0, error = 0;
  bool certified = false;
};

struct GramBackend {
  std::string name;
  // (units, B), units numbered layer by layer; example b owns rows [offsets[b], offsets[b + 1]).
  std::function<std::vector<UnitNorm>(const std::vector<Layer>&, const std::vector<int64_t>& offsets)>
      measure;
  int64_t certified_tokens;  // norms of so many random tokens must be certified
};

inline constexpr double kRounding = 1e-12;  // of sums in double, here and in the backend

// The squared norm of columns [column, column + columns) of x^T g (and of the bias) over rows [begin, end).
double exact_squared(const Layer& layer, int64_t begin, int64_t end, int64_t column, int64_t columns);

void norms_are_within_their_bounds(Failures& f, const GramBackend& backend);
void an_example_has_its_bits_in_any_batch(Failures& f, const GramBackend& backend);
void what_is_not_finite_stays_with_its_example(Failures& f, const GramBackend& backend);
void outliers_and_tiny_numbers_stay_within_their_bounds(Failures& f, const GramBackend& backend);

}  // namespace dpfa::kernels::made
