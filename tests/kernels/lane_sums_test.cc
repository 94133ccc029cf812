#include "kernels/lane_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/cross_entropy.h"
#include "kernels/vector_exp.h"

namespace dpfa::kernels {
namespace {

// The bodies of the clones for each instruction set, as functions that can be called by name. What the
// compiler or the processor lacks is left out, with a word.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_AVX512 __attribute__((target("arch=x86-64-v4")))
#define FOR_AVX2 __attribute__((target("arch=x86-64-v3")))
#define SUPPORTS(feature) (__builtin_cpu_supports(feature) != 0)
#else
#define FOR_AVX512
#define FOR_AVX2
#define SUPPORTS(feature) false
#endif

template <typename F>
struct Path {
  std::string name;
  F* body;
};
// Those of a body that this processor can run.
template <typename F>
std::vector<Path<F>> paths(F* portable, F* avx2, F* avx512) {
  const bool has_avx2 = SUPPORTS("avx2") && SUPPORTS("fma");
  const bool has_avx512 =
      SUPPORTS("avx512f") && SUPPORTS("avx512dq") && SUPPORTS("avx512bw") && SUPPORTS("avx512vl");
  std::vector<Path<F>> all = {{"portable", portable}};
  if (has_avx2) all.push_back({"avx2", avx2});
  if (has_avx512) all.push_back({"avx512", avx512});
  if (!has_avx512) std::cout << "not run: " << (has_avx2 ? "avx512" : "avx2 and avx512") << " bodies\n";
  return all;
}

template <typename T>
double portable(const T* a, const T* b, int64_t n) {
  return lane_sums::products(a, b, n);
}
template <typename T>
FOR_AVX2 double avx2(const T* a, const T* b, int64_t n) {
  return lane_sums::products(a, b, n);
}
template <typename T>
FOR_AVX512 double avx512(const T* a, const T* b, int64_t n) {
  return lane_sums::products(a, b, n);
}

float exponentiate_portable(float* row, int64_t n, float m) { return exponentiate_row(row, n, m); }
FOR_AVX2 float exponentiate_avx2(float* row, int64_t n, float m) { return exponentiate_row(row, n, m); }
FOR_AVX512 float exponentiate_avx512(float* row, int64_t n, float m) { return exponentiate_row(row, n, m); }

const std::vector<int64_t> kCounts = {0, 1, 2, 31, 32, 33, 63, 64, 65, 1000, 4096, 49153};

template <typename T>
std::vector<T> numbers(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<T>(normal(random) * std::pow(10.0, static_cast<double>(i % 12))));
  return values;
}

// The documented order: ordered_sum over the products, each rounded to double.
template <typename T>
double expected_of(const std::vector<T>& a, const std::vector<T>& b) {
  std::vector<double> products;
  for (size_t i = 0; i < a.size(); ++i)
    products.push_back(static_cast<double>(a[i]) * static_cast<double>(b[i]));
  return ordered_sum(products.data(), static_cast<int64_t>(products.size()));
}

template <typename T, typename Raw>
void expect_documented_order() {
  for (const int64_t count : kCounts) {
    const std::vector<T> a = numbers<T>(count, 1), b = numbers<T>(count, 2);
    const double products = expected_of(a, b), squares = expected_of(a, a);
    const auto raw = [](const std::vector<T>& v) { return reinterpret_cast<const Raw*>(v.data()); };
    for (const auto& [name, body] : paths(portable<Raw>, avx2<Raw>, avx512<Raw>)) {
      EXPECT_EQ(body(raw(a), raw(b), count), products) << name << ", " << count;
      EXPECT_EQ(body(raw(a), raw(a), count), squares) << name << ", " << count;
    }
    EXPECT_EQ(sum_of_squares(std::span<const T>(a)), squares) << count;
    if constexpr (std::is_same_v<T, Raw>) {
      EXPECT_EQ(sum_of_products(std::span<const T>(a), std::span<const T>(b)), products) << count;
    }
  }
}

TEST(LaneSums, HaveTheBitsOfTheDocumentedOrderFromEveryInstructionSet) {
  expect_documented_order<float, float>();
  expect_documented_order<double, double>();
  expect_documented_order<c10::BFloat16, uint16_t>();
}

TEST(LaneSums, OfNumbersThatAreNotFiniteAreNotFinite) {
  for (const float bad : {INFINITY, -INFINITY, NAN})
    for (const size_t place : {0, 31, 32, 70}) {
      std::vector<float> values(71, 1.0f);
      values[place] = bad;
      EXPECT_FALSE(std::isfinite(sum_of_squares(std::span<const float>(values)))) << bad << " at " << place;
    }
}

TEST(ExponentiateRow, HasTheSameBitsFromEveryInstructionSet) {
  for (const int64_t count : kCounts) {
    std::vector<float> logits = numbers<float>(count, 3);
    for (float& v : logits) v = -std::abs(std::fmod(v, 90.0f));
    std::vector<float> expected = logits;
    std::vector<float> lanes(kLanes);
    for (int64_t i = 0; i < count; ++i)
      lanes[i % kLanes] += expected[i] = exp_of_nonpositive(logits[i] - 0.5f);
    const float sum = fold_lanes(lanes.data());
    for (const auto& [name, body] : paths(exponentiate_portable, exponentiate_avx2, exponentiate_avx512)) {
      std::vector<float> row = logits;
      EXPECT_EQ(body(row.data(), count, 0.5f), sum) << name << ", " << count;
      EXPECT_EQ(row, expected) << name << ", " << count;
    }
  }
}

// The clone that this processor takes, by way of the loss.
TEST(CrossEntropy, SumsInTheDocumentedOrder) {
  const int64_t vocab = 1000;
  std::vector<float> row = numbers<float>(vocab, 4);
  for (float& v : row) v = std::fmod(v, 20.0f);
  at::Tensor logits = at::tensor(row).view({1, vocab});
  const float m = *std::max_element(row.begin(), row.end());
  const double sum = exponentiate_portable(row.data(), vocab, m);
  const int64_t target = 17;
  const double weight = 1, expected = std::log(sum) + m - logits[0][target].item<float>();
  double loss = 0;
  cross_entropy(logits, std::span(&target, 1), std::span(&weight, 1), std::span(&loss, 1));
  EXPECT_EQ(loss, expected);
}

}  // namespace
}  // namespace dpfa::kernels
