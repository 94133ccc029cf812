// Made inputs of tests that run on every backend, and what they are compared with: operands of bfloat16,
// which every compute type holds exactly, and products in double. No dependency, so that the suite of a GPU
// needs none.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace dpfa::kernels::made {

// What went wrong in a case; a case without an entry passed.
class Failures {
 public:
  template <typename... Parts>
  void expect(bool condition, const Parts&... parts) {
    ++checks_;
    if (condition) return;
    std::ostringstream text;
    (text << "" << ... << parts);
    if (texts_.size() < 10) texts_.push_back(text.str());
  }
  // A case that checked nothing did not pass.
  std::string text() const {
    if (checks_ == 0) return "nothing was checked";
    std::string all;
    for (const std::string& one : texts_) all += one + "\n";
    return all;
  }

 private:
  int64_t checks_ = 0;
  std::vector<std::string> texts_;
};

float value_of(uint16_t bits);
uint16_t bits_of(float v);  // to nearest

// (rows, columns) of bfloat16 bits at a stride that is a multiple of 8; the padding holds NaN.
struct Matrix {
  int64_t rows, columns, stride;
  std::vector<uint16_t> bits;
  Matrix(int64_t rows, int64_t columns);
  double at(int64_t row, int64_t column) const { return value_of(bits[row * stride + column]); }
  void set(int64_t row, int64_t column, float v) { bits[row * stride + column] = bits_of(v); }
};
Matrix random_matrix(uint64_t seed, int64_t rows, int64_t columns, float scale = 1);
// Rows in pairs, x and x (1 + residue r), so that with gradients g and -g all but a share of the product
// cancels.
void make_cancelling(uint64_t seed, Matrix& x, Matrix& g, float residue);
// The rows [begin, begin + count) alone.
Matrix rows_of(const Matrix& matrix, int64_t begin, int64_t count);

// Contiguous rows, as activations lie: the padding of Matrix is left out.
std::vector<uint16_t> contiguous(const Matrix& matrix);

// Lengths of the examples of a batch.
using Lengths = std::vector<int64_t>;
const std::vector<Lengths>& batches();
std::vector<int64_t> offsets_of(const Lengths& lengths);

// x^T g over rows [begin, end): (x.columns, g.columns), in double.
std::vector<double> product(const Matrix& x, const Matrix& g, int64_t begin, int64_t end);
double squared_norm(const std::vector<double>& values);

template <typename T>
bool same_bits(const T& a, const T& b) {
  const auto* x = reinterpret_cast<const unsigned char*>(&a);
  const auto* y = reinterpret_cast<const unsigned char*>(&b);
  for (size_t i = 0; i < sizeof(T); ++i)
    if (x[i] != y[i]) return false;
  return true;
}

}  // namespace dpfa::kernels::made
