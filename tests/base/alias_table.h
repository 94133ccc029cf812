// What the tables of discrete_gaussian.h stand for, read from its documentation and not from its code.
#pragma once

#include <bit>
#include <boost/math/constants/constants.hpp>
#include <boost/multiprecision/cpp_bin_float.hpp>
#include <cstdint>
#include <vector>

#include "src/base/random/discrete_gaussian.h"

namespace dpfa::testing {

namespace mp = boost::multiprecision;
using Real = mp::number<mp::cpp_bin_float<400, mp::digit_base_2>, mp::et_off>;

inline Real to_real(Uint128 x) {
  return ldexp(Real(static_cast<uint64_t>(x >> 64)), 64) + Real(static_cast<uint64_t>(x));
}

// The law itself, with the normaliser summed from the tail inwards, or, where its sum differs from the
// integral by less than exp(-2 pi^2 30^2) (Poisson), by the integral.
class Law {
 public:
  explicit Law(double stddev) : stddev_(stddev) {
    if (stddev > 30) {
      total_ = Real(stddev) * sqrt(2 * boost::math::constants::pi<Real>());
      return;
    }
    for (auto k = static_cast<int64_t>(20 * stddev); k > 0; --k) total_ += 2 * weight(k);
    total_ += 1;
  }
  Real weight(int64_t k) const { return exp(-Real(k) * Real(k) / (2 * Real(stddev_) * Real(stddev_))); }
  Real probability(int64_t k) const { return weight(k) / total_; }

 private:
  double stddev_;
  Real total_ = 0;
};

// The lower 64 - bits bits of a word without the lowest, followed by those of another.
inline Uint128 place_of(uint64_t high, uint64_t low, int bits) {
  return Uint128{high << bits >> bits >> 1} << 64 | low;
}

// A row of the table, as the header describes it: alias in the upper bits, border where a draw has its place.
struct Row {
  size_t alias;
  Uint128 border;
};
inline Row row_of(const DiscreteGaussian& law, size_t r) {
  const int bits = std::countr_zero(law.rows());
  const uint64_t low = law.table()[2 * r], high = law.table()[2 * r + 1];
  return {high >> (64 - bits), place_of(high, low, bits)};
}

// What the header says that a draw takes from the table.
inline int64_t value_of(const DiscreteGaussian& law, uint64_t high, uint64_t low) {
  const int bits = std::countr_zero(law.rows());
  const size_t r = high >> (64 - bits);
  const Row row = row_of(law, r);
  const auto x = static_cast<int64_t>(place_of(high, low, bits) < row.border ? r : row.alias);
  return high % 2 == 1 ? -x : x;
}

// P(|x| = k) of the table in units of 2^-127, for k from 0 on.
inline std::vector<Uint128> masses_of(const DiscreteGaussian& law) {
  const size_t rows = law.rows();
  const Uint128 length = (Uint128{1} << 127) / rows;
  std::vector<Uint128> masses(rows);
  for (size_t r = 0; r < rows; ++r) {
    const Row row = row_of(law, r);
    masses[r] += row.border;
    masses[row.alias] += length - row.border;
  }
  return masses;
}

inline Real probability_of(const std::vector<Uint128>& masses, int64_t k) {
  return k < static_cast<int64_t>(masses.size()) ? ldexp(to_real(masses[static_cast<size_t>(k)]), -127)
                                                 : Real(0);
}

}  // namespace dpfa::testing
