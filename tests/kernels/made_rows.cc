#include "tests/kernels/made_rows.h"

#include <algorithm>
#include <bit>

namespace dpfa::kernels::made {

float value_of(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
uint16_t bits_of(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (std::isnan(v)) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

Matrix::Matrix(int64_t rows_in, int64_t columns_in)
    : rows(rows_in), columns(columns_in), stride((columns_in + 15) / 8 * 8), bits(rows_in * stride, 0x7FC0) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) set(r, c, 0);
}

Matrix random_matrix(uint64_t seed, int64_t rows, int64_t columns, float scale) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Matrix m(rows, columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) m.set(r, c, scale * normal(random));
  return m;
}

std::vector<uint16_t> contiguous(const Matrix& m) {
  std::vector<uint16_t> bits;
  for (int64_t r = 0; r < m.rows; ++r)
    bits.insert(bits.end(), m.bits.begin() + r * m.stride, m.bits.begin() + r * m.stride + m.columns);
  return bits;
}

void make_cancelling(uint64_t seed, Matrix& x, Matrix& g, float residue) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (int64_t t = 0; t + 1 < x.rows; t += 2) {
    for (int64_t c = 0; c < x.columns; ++c)
      x.set(t + 1, c, static_cast<float>(x.at(t, c)) * (1 + residue * normal(random)));
    for (int64_t c = 0; c < g.columns; ++c) g.set(t + 1, c, -static_cast<float>(g.at(t, c)));
  }
}

Matrix rows_of(const Matrix& matrix, int64_t begin, int64_t count) {
  Matrix part(count, matrix.columns);
  std::copy_n(matrix.bits.begin() + begin * matrix.stride, count * matrix.stride, part.bits.begin());
  return part;
}

const std::vector<Lengths>& batches() {
  static const std::vector<Lengths> all = {
      {}, {0}, {1}, {2}, {63, 64, 65}, {127, 0, 128, 1}, {129, 257, 2}, {0, 0, 5}, {300}};
  return all;
}

std::vector<int64_t> offsets_of(const Lengths& lengths) {
  std::vector<int64_t> offsets = {0};
  for (int64_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

std::vector<double> product(const Matrix& x, const Matrix& g, int64_t begin, int64_t end) {
  std::vector<double> w(x.columns * g.columns);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t i = 0; i < x.columns; ++i)
      for (int64_t j = 0; j < g.columns; ++j) w[i * g.columns + j] += x.at(t, i) * g.at(t, j);
  return w;
}

double squared_norm(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return sum;
}

}  // namespace dpfa::kernels::made
