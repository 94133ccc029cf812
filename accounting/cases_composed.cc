// Cases of mechanisms whose privacy loss takes finitely many values, and of counting rules.
#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/case_parameters.h"
#include "accounting/finite_loss.h"
#include "accounting/normal_distribution.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

FiniteLoss pure_composition(CaseParameters& p) {
  FiniteLoss loss;
  for (double epsilon : p.numbers("epsilons"))
    loss = loss.composed_with(FiniteLoss::approximate_dp(epsilon, 0));
  return loss;
}

CaseValue approximate_delta(CaseParameters& p) {
  FiniteLoss loss;
  for (const std::vector<double>& row : p.rows()) {
    if (row.size() != 2) throw NotUnderstood("an event is expected as [epsilon, delta]");
    loss = loss.composed_with(FiniteLoss::approximate_dp(row[0], row[1]));
  }
  return {loss.delta(p.number("epsilon")), {}};
}

// Kairouz, Oh and Viswanath 2015, theorem 3.3: the smallest (k - 2 i) epsilon with a total delta that fits.
double kov_epsilon(double epsilon, double delta, int64_t steps, double total_delta) {
  const FiniteLoss loss = FiniteLoss::approximate_dp(epsilon, delta).repeated(steps);
  for (int64_t multiple = steps % 2; multiple <= steps; multiple += 2) {
    const double candidate = static_cast<double>(multiple) * epsilon;
    if (loss.delta(candidate) <= total_delta) return candidate;
  }
  return kInfinity;
}

CaseValue kov_epsilon_case(CaseParameters& p) {
  return {kov_epsilon(p.number("epsilon"), p.rate("delta"), p.count("steps"), p.rate("total_delta")), {}};
}

// For each i the condition holds up to some epsilon, so what holds for one epsilon holds for all smaller
// ones.
CaseValue kov_per_query(CaseParameters& p) {
  const double delta = p.rate("delta"), total_delta = p.rate("total_delta"),
               total = p.positive("total_epsilon");
  const int64_t steps = p.count("steps");
  double low = 0, high = total;
  if (kov_epsilon(high, delta, steps, total_delta) <= total) return {high, {}};
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (kov_epsilon(middle, delta, steps, total_delta) <= total ? low : high) = middle;
  }
  return {low, {}};
}

CaseValue randomized_response_epsilon(CaseParameters& p) {
  const double noise = p.rate("noise_parameter"), buckets = p.positive("num_buckets"),
               delta = p.rate("delta");
  const std::string relation = p.word("neighboring", "replace_one");
  const int64_t count = p.count("count", p.count("steps", 1));
  const double truth = 1 - noise + noise / buckets, other = noise / buckets, rest = (buckets - 1) * other;
  if (relation == "replace_one") {
    const FiniteLoss loss({truth, other, rest - other}, {other, truth, rest - other});
    return {loss.repeated(count).epsilon(delta), {}};
  }
  if (relation != "replace_special") throw NotUnderstood("the relation '" + relation + "' is not understood");
  const std::vector<double> report = {truth, rest}, uniform = {1 / buckets, 1 - 1 / buckets};
  return {std::max(FiniteLoss(report, uniform).repeated(count).epsilon(delta),
                   FiniteLoss(uniform, report).repeated(count).epsilon(delta)),
          {}};
}

// Batch of the record against all other batches: the largest of `batches` noisy sums as the test statistic
// (Chua et al. 2024). The record's batch has mean 2 with it and 1 without; the others have mean 0.
CaseValue shuffled_lower_bound(CaseParameters& p) {
  const Adjacency adjacency = read_adjacency(p);
  const long double sigma = p.positive("sigma"), growth = std::exp(p.number("epsilon"));
  const long double others = static_cast<long double>(p.count("batches")) - 1;
  if (adjacency.replace) throw NotUnderstood("replacing a record is not understood for this mechanism");
  long double best = 0;
  constexpr int kPlaces = 20000;
  for (int i = 0; i <= kPlaces; ++i) {
    const long double threshold = -10 * sigma + (20 * sigma + 4) * i / kPlaces;
    const long double below = std::exp(others * log_normal_cdf(threshold / sigma));
    const long double with = below * normal_cdf((threshold - 2) / sigma);
    const long double without = below * normal_cdf((threshold - 1) / sigma);
    if (adjacency.remove) best = std::max(best, (1 - with) - growth * (1 - without));
    if (adjacency.add) best = std::max(best, without - growth * with);
  }
  return {static_cast<double>(best), {}};
}

CaseValue filter_admits(CaseParameters& p) {
  const double order = p.order(), budget = p.number("rdp_budget");
  double spent = 0;
  int64_t admitted = 0;
  for (double sigma : p.numbers("sigmas")) {
    spent += order / (2 * sigma * sigma);
    if (spent > budget) break;  // before the step is taken
    ++admitted;
  }
  return {static_cast<double>(admitted), {}};
}

}  // namespace

void add_composed_cases(CaseTable& table) {
  table["pure_dp_composed/epsilon"] = [](CaseParameters& p) -> CaseValue {
    return {pure_composition(p).epsilon(p.rate("delta")), {}};
  };
  table["pure_dp_composed/tpr"] = [](CaseParameters& p) -> CaseValue {
    return {pure_composition(p).power(p.rate("fpr")), {}};
  };
  table["approx_dp_composed/delta"] = approximate_delta;
  table["approx_dp_self_composed/epsilon_kov"] = kov_epsilon_case;
  table["approx_dp_self_composed/epsilon_per_query_kov"] = kov_per_query;
  table["approx_dp_self_composed/delta_optimal"] = [](CaseParameters& p) -> CaseValue {
    const FiniteLoss one = FiniteLoss::approximate_dp(p.number("epsilon"), p.rate("delta"));
    return {one.repeated(p.count("steps")).delta(p.number("target_epsilon")), {}};
  };
  table["randomized_response_self_composed/epsilon"] = randomized_response_epsilon;
  table["shuffled_ablq_one_epoch/delta_lower_bound"] = shuffled_lower_bound;
  table["rdp_filter/admitted_steps"] = filter_admits;
  table["participation/max_participations"] = [](CaseParameters& p) -> CaseValue {
    return {std::ceil(static_cast<double>(p.count("n")) / p.positive("min_sep")), {}};
  };
}

}  // namespace dpfa::accounting
