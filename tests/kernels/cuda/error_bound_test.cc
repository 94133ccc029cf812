// The certified bound of the Gram norm, against arithmetic that rounds as tensor cores do, or worse.
#include "kernels/cuda/error_bound.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace dpfa::kernels::cuda {
namespace {

using Rows = std::vector<std::vector<float>>;

float to_bf16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  return std::bit_cast<float>((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
}

// Towards 0, to `bits` binary digits counted from the leading digit of `largest`.
double truncate_to(double v, double largest, int bits) {
  if (largest == 0) return 0;
  const double unit = std::ldexp(1.0, std::ilogb(largest) - bits + 1);
  return std::trunc(v / unit) * unit;
}

// One addition of a running sum and `count` exact products: every addend cut off below 24 bits of the
// largest.
double block_add(double sum, const float* a, const float* b, int count) {
  double largest = std::abs(sum);
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i]) * b[i]));
  double total = truncate_to(sum, largest, 24);
  for (int i = 0; i < count; ++i) total += truncate_to(static_cast<double>(a[i]) * b[i], largest, 24);
  return truncate_to(total, std::abs(total), 24);
}

// A product as the kernels form it: chains of kDepth, whose results join an f32 sum to nearest.
float tensor_product(const std::vector<float>& a, const std::vector<float>& b, int block) {
  float sum = 0;
  for (size_t begin = 0; begin < a.size(); begin += kDepth) {
    double chain = 0;
    for (size_t i = begin; i < std::min(a.size(), begin + kDepth); i += block)
      chain = block_add(chain, &a[i], &b[i],
                        static_cast<int>(std::min<size_t>(block, std::min(a.size(), begin + kDepth) - i)));
    sum += static_cast<float>(chain);
  }
  return sum;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

std::vector<float> random_row(std::mt19937& random, int width, float offset) {
  std::normal_distribution<float> normal(offset);
  std::vector<float> row(width);
  for (float& v : row) v = to_bf16(normal(random));
  return row;
}

TEST(TensorCoreSum, StaysWithinItsBoundForEveryWidthOfAnAddition) {
  // All terms of one sign lose the most to truncation.
  std::mt19937 random(1);
  for (const int n : {1, 3, 16, 63, 64, 65, 200, 1000, 4096})
    for (const int block : {4, 8, 16})
      for (const float offset : {0.0f, 3.0f})
        for (int repeat = 0; repeat < 20; ++repeat) {
          const std::vector<float> a = random_row(random, n, offset), b = random_row(random, n, offset);
          double magnitude = 0;
          for (int i = 0; i < n; ++i) magnitude += std::abs(static_cast<double>(a[i]) * b[i]);
          ASSERT_LE(std::abs(tensor_product(a, b, block) - dot(a, b)), product_error(n) * magnitude)
              << n << " terms, " << block << " at a time";
        }
}

TEST(TensorCoreSum, IsOffByAPercentOfItsBoundSoTheBoundIsNoFormality) {
  std::mt19937 random(2);
  double worst = 0;
  for (int repeat = 0; repeat < 50; ++repeat) {
    const std::vector<float> a = random_row(random, 4096, 3), b = random_row(random, 4096, 3);
    worst =
        std::max(worst, std::abs(tensor_product(a, b, 4) - dot(a, b)) / (product_error(4096) * dot(a, b)));
  }
  EXPECT_GT(worst, 0.01);
}

TEST(PaddedNorm, ProductsCoverTheBoundAndWhatMayUnderflow) {
  for (const int64_t n : {1, 64, 5000})
    for (const double x : {0.0, 1e-45, 1e-19, 1.0, 1e19})
      for (const double y : {0.0, 1e-30, 1e-3, 1e10})
        EXPECT_GE(product_error(n) * padded_norm(x * x, n) * padded_norm(y * y, n),
                  product_error(n) * x * y + underflow(n));
}

// x, g of one example, and what the kernel makes of them: the walk over tiles, weights, masks and slots is
// that of the kernel, the sums are those of tensor_product.
struct Example {
  Rows x, g;
  double bias = 0;
};

GramResult gram_norm(const Example& e) {
  const auto tokens = static_cast<int64_t>(e.x.size());
  const auto inputs = static_cast<int64_t>(e.x[0].size()), outputs = static_cast<int64_t>(e.g[0].size());
  std::vector<double> a, b, values, x_errors, g_errors;
  double magnitude = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    a.push_back(padded_norm(dot(e.x[t], e.x[t]), inputs));
    b.push_back(padded_norm(dot(e.g[t], e.g[t]), outputs));
    magnitude += a[t] * b[t];
  }
  const std::vector<int64_t> offsets = {0, tokens};
  std::vector<int64_t> first(2);
  count_tasks(offsets.data(), 1, kTile, first.data());
  for (int64_t task = 0; task < first[1]; ++task) {
    const TilePair pair = tile_task(first.data(), 1, task).pair;
    double value = 0, x_error = 0, g_error = 0;
    for (int64_t t = pair.row * kTile; t < std::min(tokens, (pair.row + 1) * kTile); ++t)
      for (int64_t u = pair.column * kTile; u < std::min(tokens, (pair.column + 1) * kTile); ++u) {
        const double x = tensor_product(e.x[t], e.x[u], 8) + e.bias, g = tensor_product(e.g[t], e.g[u], 8);
        value += x * g;
        x_error += a[t] * a[u] * std::abs(g);
        g_error += b[t] * b[u] * std::abs(x);
      }
    values.push_back(pair_weight(pair) * value);
    x_errors.push_back(pair_weight(pair) * x_error);
    g_errors.push_back(pair_weight(pair) * g_error);
  }
  return gram_result(ordered_sum(values.data(), first[1]), ordered_sum(x_errors.data(), first[1]),
                     ordered_sum(g_errors.data(), first[1]), magnitude, inputs, outputs);
}

// |x^T g|^2 + bias |1^T g|^2 from the gradient itself.
double exact_squared(const Example& e) {
  double squared = 0;
  for (size_t j = 0; j < e.g[0].size(); ++j) {
    double bias = 0;
    for (const auto& g : e.g) bias += g[j];
    squared += e.bias * bias * bias;
    for (size_t i = 0; i < e.x[0].size(); ++i) {
      double w = 0;
      for (size_t t = 0; t < e.x.size(); ++t) w += static_cast<double>(e.x[t][i]) * e.g[t][j];
      squared += w * w;
    }
  }
  return squared;
}

// Tokens in pairs that cancel but for a share `residue`.
Example made_example(uint32_t seed, int tokens, int inputs, int outputs, float residue, float scale) {
  std::mt19937 random(seed);
  Example e;
  for (int t = 0; t < tokens; ++t) {
    e.x.push_back(random_row(random, inputs, 0.5f));
    e.g.push_back(random_row(random, outputs, 0));
    for (float& v : e.g[t]) v = to_bf16(v * scale);
    if (t % 2 == 1 && residue < 1) {
      for (int i = 0; i < inputs; ++i) e.x[t][i] = to_bf16(e.x[t - 1][i] * (1 + residue * e.x[t][i]));
      for (int i = 0; i < outputs; ++i) e.g[t][i] = -e.g[t - 1][i];
    }
  }
  return e;
}

TEST(GramBound, HoldsTheTrueNormForEveryLengthUnderCancellation) {
  int certified = 0, refused = 0;
  uint32_t seed = 1;
  for (const int tokens : {1, 2, 63, 127, 128, 129, 200})
    for (const float residue : {0.0f, 0.02f, 0.3f, 1.0f})
      for (const float scale : {1.0f, 0x1p-70f, 0x1p-120f})
        for (const double bias : {0.0, 1.0}) {
          Example e = made_example(++seed, tokens, 37, 21, residue, scale);
          e.bias = bias;
          const GramResult result = gram_norm(e);
          const double exact = exact_squared(e);
          ASSERT_LE(std::abs(result.squared - exact), result.error)
              << tokens << " tokens, residue " << residue << ", scale " << scale << ", bias " << bias;
          ASSERT_GE(upper_squared(result), exact);
          if (is_certified(result, tokens, 37, 21)) {
            ++certified;
            ASSERT_LE(upper_squared(result), exact * (1 + 0x1p-6));
          } else {
            ++refused;
          }
        }
  EXPECT_GT(certified, 20);
  EXPECT_GT(refused, 20);
}

// The head of a tied table with output gradients e.x (vocabulary) and inputs e.g, and embedding gradients
// that are `share` of what would cancel the head's rows: -1 leaves what bf16 cannot hold, 1 doubles them.
struct TiedExample {
  Example head;
  Rows embedding;
  std::vector<size_t> ids;
  double exact = 0, rows_squared = 0, term = 0, magnitude = 0;

  TiedExample(uint32_t seed, int tokens, int vocabulary, int width, float share)
      : head(made_example(seed, tokens, vocabulary, width, 1, 1)) {
    std::vector<std::vector<double>> table(vocabulary, std::vector<double>(width)), sums = table;
    for (int t = 0; t < tokens; ++t) {
      ids.push_back(static_cast<size_t>(7 * t % vocabulary));
      for (int v = 0; v < vocabulary; ++v)
        for (int c = 0; c < width; ++c) table[v][c] += static_cast<double>(head.x[t][v]) * head.g[t][c];
    }
    for (int t = 0; t < tokens; ++t) {
      embedding.emplace_back(width);
      const auto count = static_cast<float>(std::count(ids.begin(), ids.end(), ids[t]));
      for (int c = 0; c < width; ++c)
        embedding[t][c] = to_bf16(share * static_cast<float>(table[ids[t]][c]) / count);
      for (int c = 0; c < width; ++c) sums[ids[t]][c] += embedding[t][c];
    }
    for (int v = 0; v < vocabulary; ++v)
      for (int c = 0; c < width; ++c) {
        const double row = static_cast<float>(sums[v][c]);
        rows_squared += row * row;
        exact += (table[v][c] + row) * (table[v][c] + row);
      }
    for (int t = 0; t < tokens; ++t)
      for (int u = 0; u < tokens; ++u) {
        const double z = head.x[u][ids[t]];
        term += tensor_product(embedding[t], head.g[u], 8) * z;
        magnitude += padded_norm(dot(embedding[t], embedding[t]), width) *
                     padded_norm(dot(head.g[u], head.g[u]), width) * std::abs(z);
      }
  }
};

TEST(TiedBound, HoldsTheNormOfTheWholeTableAndNeedsItsCrossTerm) {
  constexpr int kVocabulary = 29, kColumns = 72;
  int certified = 0, refused = 0, without_cross = 0;
  uint32_t seed = 1;
  for (const int tokens : {1, 5, 64, 129})
    for (const float share : {-1.0f, -0.5f, 0.01f, 1.0f}) {
      const TiedExample e(++seed, tokens, kVocabulary, kColumns, share);
      const GramResult head = gram_norm(e.head);
      const GramResult whole = tied_result(head, e.rows_squared, e.term, e.magnitude, kColumns);
      ASSERT_LE(std::abs(whole.squared - e.exact), whole.error) << tokens << " tokens, share " << share;
      ++(is_certified(whole, tokens, kVocabulary, kColumns) ? certified : refused);
      const GramResult parts = tied_result(head, e.rows_squared, 0, e.magnitude, kColumns);
      if (upper_squared(parts) < e.exact) ++without_cross;
    }
  EXPECT_GE(certified, 4);
  EXPECT_GE(refused, 1);
  EXPECT_GE(without_cross, 4) << "the cross term is not what holds the bound";
}

TEST(GramBound, OfWhatWasNotComputedIsNeverCertifiedAndGivesFactorZero) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const GramResult& r : {GramResult{nan, nan, nan}, GramResult{nan, 0, 1}, GramResult{1, nan, 1},
                              GramResult{1, 0, nan}, GramResult{infinity, infinity, 1}}) {
    EXPECT_FALSE(is_certified(r, 10, 10, 10));
  }
  EXPECT_EQ(factor_of(nan, 1), 0);
  EXPECT_EQ(factor_of(infinity, 1), 0);
  EXPECT_EQ(factor_of(-1, 1), 0);
}

// The product's entries are as large as its magnitude where tokens are aligned, and sums of it run in f32.
TEST(GramBound, CertifiesNoProductThatMayLeaveTheRangeOfFloats) {
  for (const double magnitude : {1.0, 0x1p100, 0x1p126})
    EXPECT_TRUE(is_certified({magnitude * magnitude, 0, magnitude}, 10, 10, 10)) << magnitude;
  EXPECT_FALSE(is_certified({0x1p256, 0, 0x1p128}, 10, 10, 10));
  EXPECT_FALSE(is_certified(tied_result({1, 0, 1}, 0x1p254, 0, 1, 10), 10, 10, 10)) << "rows of the table";
}

TEST(ClipFactor, IsZeroWhereOneSlotOfANormWasNotWritten) {
  double unwritten;
  std::memset(&unwritten, unwritten_byte(), sizeof(unwritten));
  for (const size_t count : {1, 2, 31, 32, 33, 100})
    for (size_t missing = 0; missing < count; missing += 7) {
      std::vector<double> slots(count, 0.25);
      slots[missing] = unwritten;
      const double squared = ordered_sum(slots.data(), static_cast<int64_t>(count));
      for (const ClipRule rule : {ClipRule::kFlat, ClipRule::kAutomatic})
        EXPECT_EQ(factor_of(squared, {1, rule}), 0) << "slot " << missing << " of " << count;
      EXPECT_FALSE(is_certified(gram_result(squared, 0, 0, 1, 8, 8), 10, 8, 8));
    }
}

TEST(ClipFactor, BringsEveryFiniteNormToAtMostTheClippingNorm) {
  EXPECT_EQ(factor_of(0, 1), 1);
  EXPECT_EQ(factor_of(1, 1), 1);
  EXPECT_EQ(factor_of(4, 1), 0.5);
  const Clipping automatic = {0.3, ClipRule::kAutomatic};
  EXPECT_EQ(factor_of(0, automatic), 0.3 / 0.01);
  EXPECT_EQ(factor_of(0.25, automatic), 0.3 / 0.51);
  EXPECT_EQ(factor_of(std::numeric_limits<double>::infinity(), automatic), 0);
  for (double squared = 1e-300; squared < 1e300; squared *= 7)
    for (const Clipping& clip : {Clipping(0.3), automatic})
      EXPECT_LE(factor_of(squared, clip) * std::sqrt(squared), 0.3 * (1 + 1e-15));
}

}  // namespace
}  // namespace dpfa::kernels::cuda
