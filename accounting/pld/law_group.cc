#include "accounting/pld/law_group.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/check.h"

namespace dpfa::accounting {
namespace {

constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr double kLargestRatio = 0.5;  // Y up to which the first bound is used
constexpr double kSummation = 1e-10;   // more than the rounding of sums of 2^19 terms, relative
constexpr double kRounding = 1e-9;     // of the bounds themselves

double power(double base, double exponent) { return std::exp(exponent * std::log(base)); }

struct Norms {
  double sum = 0, first = 0, second = 0, third = 0, balance = 0, whole = 0;
};

// Of node - mean, where the node's masses are `scale` times those stored.
Norms norms_of(const GridLaw& node, double scale, const GridLaw& mean, const std::vector<int64_t>& support,
               double centre) {
  Norms norms;
  double absolute_first = 0, signed_second = 0;
  const int64_t offset = node.first - mean.first, size = static_cast<int64_t>(node.mass.size());
  for (const int64_t i : support) {
    const bool inside = i >= offset && i < offset + size;
    const double apart =
        (inside ? scale * node.mass[static_cast<size_t>(i - offset)] : 0) - mean.mass[static_cast<size_t>(i)];
    const double place = static_cast<double>(mean.first + i) - centre;
    norms.sum += apart;
    norms.first += place * apart;
    absolute_first += std::abs(place * apart);
    signed_second += place * place * apart;
    norms.second += place * place * std::abs(apart);
    norms.third += std::abs(place * place * place * apart);
    norms.whole += std::abs(apart);
  }
  norms.sum = std::abs(norms.sum) + kSummation * norms.whole;
  norms.first = std::abs(norms.first) + kSummation * absolute_first;
  norms.balance = std::abs(signed_second) + kSummation * norms.second;
  return norms;
}

}  // namespace

double LawGroup::change(double frequency, double size, double margin) const {
  if (whole == 0) return 0;
  const double n = static_cast<double>(count), upper = size + margin, lower = size - margin;
  const double w = frequency, linear = sum + w * first;
  const double apart =
      std::min({whole, linear + w * w * second / 2, linear + w * w * (balance / 2 + w * third / 6)});
  double bound = power(upper + apart / std::sqrt(n), n) + power(upper, n);
  if (const double ratio = apart / lower; lower > 0 && ratio < kLargestRatio)
    bound = std::min(bound, power(upper, n) * std::expm1(ratio * ratio / (2 * (1 - ratio))));
  return bound * (1 + kRounding);
}

LawGroup mean_of(const std::vector<DiscreteLoss>& nodes, const std::vector<double>& weights, int64_t count) {
  DPFA_CHECK(!nodes.empty() && nodes.size() == weights.size());
  const GridLaw& some = nodes.front().law;
  double largest = nodes.front().log_mass;
  LawGroup group{{some.step, some.shift, some.first, {}}, count};
  int64_t last = some.first;
  for (const DiscreteLoss& node : nodes) {
    DPFA_CHECK(node.law.step == some.step && node.law.shift == some.shift && !node.law.mass.empty());
    group.law.first = std::min(group.law.first, node.law.first);
    last = std::max(last, node.law.first + static_cast<int64_t>(node.law.mass.size()) - 1);
    largest = std::max(largest, node.log_mass);
  }
  double total = 0;
  for (size_t c = 0; c < nodes.size(); ++c) total += weights[c] * std::exp(nodes[c].log_mass - largest);
  group.log_mass = largest + std::log(total / static_cast<double>(count));
  group.law.mass.assign(static_cast<size_t>(last - group.law.first) + 1, 0.0);
  std::vector<double> scales;
  for (size_t c = 0; c < nodes.size(); ++c) {
    const auto& [law, log_mass, error, infinite] = nodes[c];
    scales.push_back(std::exp(log_mass - group.log_mass));
    const double share = weights[c] / static_cast<double>(count) * scales.back();
    double* at = group.law.mass.data() + (law.first - group.law.first);
    for (size_t i = 0; i < law.mass.size(); ++i) at[i] += share * law.mass[i];
    group.error += share * error;
  }
  group.error += (static_cast<double>(nodes.size()) + 16 + std::abs(group.log_mass)) * 2 * kUnit;
  if (nodes.size() == 1) return group;

  std::vector<int64_t> support;
  for (size_t i = 0; i < group.law.mass.size(); ++i)
    if (group.law.mass[i] > 0) support.push_back(static_cast<int64_t>(i));
  const double centre = (group.law.mean() - group.law.shift) / group.law.step;
  for (size_t c = 0; c < nodes.size(); ++c) {
    const Norms norms = norms_of(nodes[c].law, scales[c], group.law, support, centre);
    group.sum += weights[c] * norms.sum * norms.sum;
    group.first += weights[c] * norms.first * norms.first;
    group.second += weights[c] * norms.second * norms.second;
    group.balance += weights[c] * norms.balance * norms.balance;
    group.third += weights[c] * norms.third * norms.third;
    group.whole += weights[c] * norms.whole * norms.whole;
  }
  for (double* norm : {&group.sum, &group.first, &group.second, &group.balance, &group.third, &group.whole})
    *norm = std::sqrt(*norm) * (1 + kRounding);
  return group;
}

}  // namespace dpfa::accounting
