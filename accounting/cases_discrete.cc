// Cases of noise on whole numbers: discrete Gaussian and discrete Laplace.
#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/case_losses.h"
#include "accounting/finite_loss.h"

namespace dpfa::accounting {
namespace {

constexpr double kMostValues = 2e7;

struct Pair {
  std::vector<double> p, q;

  double delta(double epsilon) const {
    double sum = 0;
    const double growth = std::exp(epsilon);
    for (size_t i = 0; i < p.size(); ++i) sum += std::max(0.0, p[i] - growth * q[i]);
    return sum;
  }
};

int64_t shift_of(CaseParameters& p) { return p.count("sensitivity", 1); }

// Noise on [-bound, bound] (without a bound: as far as a double reaches) and the same shifted.
Pair discrete_gaussian_pair(CaseParameters& p) {
  const double sigma = p.positive("sigma");
  const double reach = p.has("truncation_bound") ? p.positive("truncation_bound") : std::ceil(39 * sigma + 2);
  const int64_t shift = shift_of(p);
  if (reach + static_cast<double>(shift) > kMostValues) throw NotUnderstood("the support is too large");
  const int64_t bound = static_cast<int64_t>(reach);
  std::vector<double> noise;
  double total = 0;
  for (int64_t x = -bound; x <= bound; ++x) {
    const double z = static_cast<double>(x) / sigma;
    noise.push_back(std::exp(-z * z / 2));
    total += noise.back();
  }
  const size_t size = noise.size() + static_cast<size_t>(shift);
  Pair pair{std::vector<double>(size, 0.0), std::vector<double>(size, 0.0)};
  for (size_t i = 0; i < noise.size(); ++i) {
    pair.p[i + static_cast<size_t>(shift)] = noise[i] / total;
    pair.q[i] = noise[i] / total;
  }
  return pair;
}

// P(x) ~ exp(-a |x|), shifted by D: the loss is a (2 x - D) between the centres and constant outside them.
Pair discrete_laplace_pair(double a, int64_t shift) {
  const double tail = 1 / (1 + std::exp(-a)), height = std::tanh(a / 2);
  const double distance = static_cast<double>(shift);
  Pair pair{{tail}, {tail * std::exp(-a * distance)}};
  for (double x = 1; x < distance; ++x) {
    pair.p.push_back(height * std::exp(-a * (distance - x)));
    pair.q.push_back(height * std::exp(-a * x));
  }
  pair.p.push_back(tail * std::exp(-a * distance));
  pair.q.push_back(tail);
  if (shift == 0) return {{1}, {1}};
  return pair;
}

Pair sampled(const Pair& pair, double rate, bool add) {
  Pair result = pair;
  for (size_t i = 0; i < pair.p.size(); ++i) result.p[i] = (1 - rate) * pair.q[i] + rate * pair.p[i];
  if (add) std::swap(result.p, result.q);
  return result;
}

double sampled_delta(const Pair& pair, double rate, const Adjacency& adjacency, double epsilon) {
  if (adjacency.replace) throw NotUnderstood("replacing a record is not understood for this mechanism");
  double delta = 0;
  if (adjacency.remove) delta = std::max(delta, sampled(pair, rate, false).delta(epsilon));
  if (adjacency.add) delta = std::max(delta, sampled(pair, rate, true).delta(epsilon));
  return delta;
}

CaseValue repeated_delta(CaseParameters& p, const Pair& pair) {
  const double rate = p.rate("q"), epsilon = p.number("epsilon");
  const Adjacency adjacency = read_adjacency(p);
  const int64_t steps = p.count("steps", 1);
  if (steps == 1) return {sampled_delta(pair, rate, adjacency, epsilon), {}};
  if (adjacency.replace) throw NotUnderstood("replacing a record is not understood for this mechanism");
  const CaseLosses losses{{{LossPair::sampled_finite(pair.p, pair.q, rate), steps}}, ways_of(adjacency)};
  return {losses.delta(epsilon, p.check()), {}};
}

// The least noise, that is the largest a.
CaseValue discrete_laplace_parameter(CaseParameters& p) {
  const double rate = p.has("q") ? p.rate("q") : 1, epsilon = p.number("epsilon"), delta = p.rate("delta");
  const int64_t shift = shift_of(p);
  const Adjacency adjacency = read_adjacency(p);
  CaseValue scale = smallest_scale([=](double b) {
    return sampled_delta(discrete_laplace_pair(1 / b, shift), rate, adjacency, epsilon) <= delta;
  });
  scale.value = 1 / scale.value;
  return scale;
}

CaseValue discrete_laplace_epsilon(CaseParameters& p) {
  FiniteLoss loss;
  const int64_t shift = shift_of(p);
  for (double a : p.numbers("parameters")) {
    const Pair pair = discrete_laplace_pair(a, shift);
    loss = loss.composed_with(FiniteLoss(pair.p, pair.q));
  }
  return {loss.epsilon(p.rate("delta")), {}};
}

}  // namespace

void add_discrete_cases(CaseTable& table) {
  table["discrete_gaussian/delta"] = [](CaseParameters& p) -> CaseValue {
    return {discrete_gaussian_pair(p).delta(p.number("epsilon")), {}};
  };
  table["poisson_subsampled_discrete_gaussian/delta"] = [](CaseParameters& p) {
    return repeated_delta(p, discrete_gaussian_pair(p));
  };
  table["poisson_subsampled_discrete_laplace/delta"] = [](CaseParameters& p) {
    return repeated_delta(p, discrete_laplace_pair(p.positive("a"), shift_of(p)));
  };
  table["poisson_subsampled_discrete_laplace/a"] = discrete_laplace_parameter;
  table["discrete_laplace_composed/epsilon"] = discrete_laplace_epsilon;
}

}  // namespace dpfa::accounting
