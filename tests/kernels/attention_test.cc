#include "kernels/attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <random>

#include "tests/kernels/random_matrix.h"

namespace dpfa::kernels {
namespace {

struct Setting {
  int64_t heads, key_heads, head_width;
  bool causal;
};

// Query, key and value side by side in one fused matrix, as models hold them, and the gradient of the output.
struct Made {
  std::vector<int64_t> offsets;
  Setting s;
  at::Tensor fused, g;

  Made(const std::vector<int64_t>& lengths, const Setting& setting, at::ScalarType type, uint64_t seed = 1)
      : offsets{0}, s(setting) {
    std::vector<at::Tensor> rows, gradients;
    const int64_t width = (s.heads + 2 * s.key_heads) * s.head_width;
    for (const int64_t length : lengths) {
      offsets.push_back(offsets.back() + length);
      rows.push_back(random_matrix(length, width, seed + static_cast<uint64_t>(length)));
      gradients.push_back(random_matrix(length, s.heads * s.head_width, 77 + static_cast<uint64_t>(length)));
    }
    fused = at::cat(rows).to(type);
    g = at::cat(gradients).to(type);
  }
  AttentionShape shape() const { return {offsets, s.heads, s.key_heads, s.head_width, s.causal}; }
  at::Tensor part(const at::Tensor& m, int which) const {
    const int64_t q = s.heads * s.head_width, k = s.key_heads * s.head_width;
    return which == 0 ? m.narrow(1, 0, q) : m.narrow(1, q + (which - 1) * k, k);
  }
};

struct Result {
  at::Tensor out, gradient;  // of query, key, value side by side
};

Result run(const Made& m, AttentionPath path) {
  Result r{at::full_like(m.g, NAN), at::full_like(m.fused, NAN)};
  AttentionState state;
  at::Tensor dq = m.part(r.gradient, 0), dk = m.part(r.gradient, 1), dv = m.part(r.gradient, 2);
  attention(m.shape(), path, m.part(m.fused, 0), m.part(m.fused, 1), m.part(m.fused, 2), r.out, state);
  attention_backward(m.shape(), path, m.g, m.part(m.fused, 0), m.part(m.fused, 1), m.part(m.fused, 2), r.out,
                     state, dq, dk, dv);
  return r;
}

// The definition, query by query and head by head, in double, its gradient by central differences of <out, g>
// in a random direction.
at::Tensor definition(const Made& m, const at::Tensor& fused) {
  const auto f = fused.to(at::kDouble).contiguous();
  at::Tensor out = at::zeros({f.size(0), m.s.heads * m.s.head_width}, at::kDouble);
  const auto a = f.accessor<double, 2>();
  auto o = out.accessor<double, 2>();
  const int64_t d = m.s.head_width, group = m.s.heads / m.s.key_heads;
  const int64_t key0 = m.s.heads * d, value0 = key0 + m.s.key_heads * d;
  for (size_t b = 0; b + 1 < m.offsets.size(); ++b)
    for (int64_t h = 0; h < m.s.heads; ++h)
      for (int64_t i = m.offsets[b]; i < m.offsets[b + 1]; ++i) {
        const int64_t last = m.s.causal ? i + 1 : m.offsets[b + 1];
        double total = 0;
        for (int64_t j = m.offsets[b]; j < last; ++j) {
          double score = 0;
          for (int64_t c = 0; c < d; ++c) score += a[i][h * d + c] * a[j][key0 + h / group * d + c];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(d)));
          total += weight;
          for (int64_t c = 0; c < d; ++c) o[i][h * d + c] += weight * a[j][value0 + h / group * d + c];
        }
        for (int64_t c = 0; c < d; ++c) o[i][h * d + c] /= total;
      }
  return out;
}

const std::vector<Setting> kSettings = {
    {2, 2, 8, true}, {2, 2, 8, false}, {6, 2, 16, true}, {4, 1, 8, true}, {6, 3, 8, false}};
const std::vector<std::vector<int64_t>> kLengths = {{1}, {5, 5}, {0, 7, 0, 7, 7, 3, 0}, {33, 65, 2}};

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

TEST(Attention, ForwardIsItsDefinitionOnBothPaths) {
  for (const Setting& s : kSettings)
    for (const auto& lengths : kLengths)
      for (const auto& [type, tolerance] :
           {std::pair{at::kDouble, 1e-12}, {at::kFloat, 1e-5}, {at::kBFloat16, 5e-2}})
        for (const AttentionPath path : {AttentionPath::kFlash, AttentionPath::kExact}) {
          const Made m(lengths, s, type);
          EXPECT_LE(distance(run(m, path).out, definition(m, m.fused)), tolerance)
              << s.heads << "/" << s.key_heads << " heads, " << lengths.size() << " examples, "
              << c10::toString(type);
        }
}

TEST(Attention, BackwardIsTheDerivativeOfTheDefinitionOnBothPaths) {
  for (const Setting& s : kSettings)
    for (const auto& lengths : kLengths)
      for (const AttentionPath path : {AttentionPath::kFlash, AttentionPath::kExact}) {
        const Made m(lengths, s, at::kDouble);
        const at::Tensor gradient = run(m, path).gradient;
        for (const uint64_t seed : {11, 12, 13}) {
          const at::Tensor direction = random_matrix(m.fused.size(0), m.fused.size(1), seed);
          const double step = 1e-5;
          const double difference =
              ((definition(m, m.fused + step * direction) - definition(m, m.fused - step * direction)) * m.g)
                  .sum()
                  .item<double>() /
              (2 * step);
          const double derivative = (gradient * direction).sum().item<double>();
          EXPECT_NEAR(derivative, difference, 1e-6 * (1 + std::abs(difference)))
              << s.heads << "/" << s.key_heads << " heads, " << lengths.size() << " examples";
        }
      }
}

TEST(Attention, PathsAgreeInTheTypesOfTraining) {
  for (const Setting& s : kSettings)
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, {at::kBFloat16, 1e-1}}) {
      const Made m({33, 65, 0, 2}, s, type);
      const Result flash = run(m, AttentionPath::kFlash), exact = run(m, AttentionPath::kExact);
      EXPECT_LE(distance(flash.out, exact.out), tolerance);
      EXPECT_LE(distance(flash.gradient, exact.gradient), tolerance);
    }
}

TEST(Attention, AnExampleHasTheBitsItHasAloneWhateverItsNeighboursAndTheThreads) {
  const int threads = omp_get_max_threads();
  for (const Setting& s : kSettings)
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const int64_t mine : {1, 33, 130})
        for (const AttentionPath path : {AttentionPath::kFlash, AttentionPath::kExact}) {
          const Result alone = run(Made({mine}, s, type), path);
          for (const auto& lengths :
               {std::vector<int64_t>{mine, mine, mine}, {0, 5, mine, 200}, {mine + 1, mine}, {mine, 0}})
            for (const int count : {1, 3}) {
              omp_set_num_threads(count);
              const Made m(lengths, s, type);
              const Result together = run(m, path);
              for (size_t b = 0; b < lengths.size(); ++b) {
                if (lengths[b] != mine) continue;
                EXPECT_TRUE(at::equal(together.out.narrow(0, m.offsets[b], mine), alone.out) &&
                            at::equal(together.gradient.narrow(0, m.offsets[b], mine), alone.gradient))
                    << mine << " tokens, slot " << b << ", " << count << " threads";
              }
            }
        }
  omp_set_num_threads(threads);
}

// Neighbours of one length go to the library in one call, whose threads share them out.
void expect_the_bits_of_one_alone(int64_t heads) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const int64_t width : {8, 16, 64})
      for (int64_t length = 5; length <= 40; length += 2) {
        const Made alone({length}, {heads, heads, width, true}, type);
        const Result expected = run(alone, AttentionPath::kFlash);
        for (const size_t examples : {2, 3}) {
          const Made together(std::vector<int64_t>(examples, length), alone.s, type);
          const Result result = run(together, AttentionPath::kFlash);
          for (size_t b = 0; b < examples; ++b) {
            const int64_t row = static_cast<int64_t>(b) * length;
            ASSERT_TRUE(result.out.narrow(0, row, length).equal(expected.out) &&
                        result.gradient.narrow(0, row, length).equal(expected.gradient))
                << c10::toString(type) << ", " << heads << " heads, " << width << " channels, " << length
                << " tokens, example " << b << " of " << examples;
          }
        }
      }
}

TEST(Attention, AnExampleHasTheBitsItHasAloneAmongNeighboursOfItsLength) {
  const int default_threads = omp_get_max_threads();
  for (const int threads : {2, 3}) {
    omp_set_num_threads(threads);
    for (const int64_t heads : {1, 2}) expect_the_bits_of_one_alone(heads);
  }
  omp_set_num_threads(default_threads);
}

TEST(Attention, ExamplesWithoutATokenNeverReachTheLibrary) {
  for (const auto& lengths : {std::vector<int64_t>{0}, {0, 0, 0}})
    for (const AttentionPath path : {AttentionPath::kFlash, AttentionPath::kExact}) {
      const Result r = run(Made(lengths, kSettings[0], at::kFloat), path);
      EXPECT_EQ(r.out.numel(), 0);
    }
}

TEST(Attention, ANonFiniteExampleStaysAlone) {
  for (const AttentionPath path : {AttentionPath::kFlash, AttentionPath::kExact}) {
    Made m({9, 9, 9}, kSettings[0], at::kFloat);
    const Result clean = run(m, path);
    m.fused[13].fill_(NAN);
    const Result r = run(m, path);
    for (const int64_t row : {0, 18})
      EXPECT_TRUE(at::equal(r.out.narrow(0, row, 9), clean.out.narrow(0, row, 9)) &&
                  at::equal(r.gradient.narrow(0, row, 9), clean.gradient.narrow(0, row, 9)));
    EXPECT_FALSE(at::isfinite(r.out.narrow(0, 9, 9)).all().item<bool>());
  }
}

}  // namespace
}  // namespace dpfa::kernels
