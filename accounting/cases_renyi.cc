// Cases that ask for Renyi divergences and their conversions.
#include <algorithm>
#include <cmath>

#include "accounting/case_parameters.h"
#include "accounting/mechanism_rdp.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {
namespace {

double repeats(CaseParameters& p) {
  return static_cast<double>(p.count("steps", 1)) * static_cast<double>(p.count("count", 1));
}

// Epsilon over the orders of the case: a list, one order, or the default search.
CaseValue convert(CaseParameters& p, const RdpCurve& curve) {
  const double delta = p.rate("delta");
  if (p.has("orders")) return {best_epsilon(curve, p.orders(), delta).value, {}};
  if (p.has("order")) return {best_epsilon(curve, std::vector{p.order()}, delta).value, {}};
  return {best_epsilon(curve, delta).value, {}};
}

CaseValue gaussian_sum(CaseParameters& p) {
  double sum = 0;
  const double order = p.order();
  for (double sigma : p.numbers("sigmas")) sum += sampled_gaussian_rdp(1, sigma, order);
  return {sum, {}};
}

CaseValue zcdp_sum(CaseParameters& p) {
  double sum = 0;
  const double order = p.order();
  for (auto& row : p.rows({"xi", "rho", "count"})) {
    sum += (row.contains("count") ? row["count"] : 1) * (row["xi"] + row["rho"] * order);
  }
  return {sum, {}};
}

CaseValue sampled_gaussians(CaseParameters& p) {
  auto rows = p.rows({"q", "sigma", "steps"});
  for (auto& row : rows) {
    if (!row.contains("q") || !row.contains("sigma")) throw NotUnderstood("an event lacks q or sigma");
    row.try_emplace("steps", 1);
  }
  return convert(p, [&](double order) {
    double sum = 0;
    for (auto& row : rows) sum += row["steps"] * sampled_gaussian_rdp(row["q"], row["sigma"], order);
    return sum;
  });
}

bool special(CaseParameters& p) {
  const std::string relation = p.word("neighboring", "replace_one");
  if (relation != "replace_one" && relation != "replace_special") {
    throw NotUnderstood("the relation '" + relation + "' is not understood");
  }
  return relation == "replace_special";
}

double tree_steps(CaseParameters& p) {
  // A record of one epoch lies in one of the trees; the deepest is the worst.
  const std::vector<double> counts = p.numbers("step_counts");
  if (counts.empty()) throw NotUnderstood("there are no step counts");
  return *std::max_element(counts.begin(), counts.end());
}

CaseValue without_replacement(CaseParameters& p) {
  if (p.word("neighboring", "replace_one") != "replace_one")
    throw NotUnderstood("the theorem is about replacing a record");
  const double order = p.order();
  if (order == 1) throw NotUnderstood("the theorem needs an order above 1");
  return {repeats(p) * sampled_without_replacement_rdp(p.rate("q"), p.positive("sigma"), order), {}};
}

int64_t whole_shift(CaseParameters& p) {
  const int64_t shift = p.count("l1");
  if (p.has("l2") && p.count("l2") != shift) throw NotUnderstood("in one dimension l1 and l2 are equal");
  return shift;
}

void add_points(CaseTable& table) {
  table["rdp_curve/epsilon"] = [](CaseParameters& p) -> CaseValue {
    const double constant = p.number("rdp_constant");
    return convert(p, [constant](double) { return constant; });
  };
  table["rdp_curve/delta"] = [](CaseParameters& p) -> CaseValue {
    const double constant = p.number("rdp_constant");
    return {
        std::exp(
            best_log_delta([constant](double) { return constant; }, p.orders(), p.number("epsilon")).value),
        {}};
  };
  table["rdp_point/epsilon_classic_mironov"] = [](CaseParameters& p) -> CaseValue {
    return {p.number("rdp") - std::log(p.rate("delta")) / (p.order() - 1), {}};
  };
  table["rdp_point/epsilon_cks_balle"] = [](CaseParameters& p) -> CaseValue {
    return {epsilon_from_rdp(p.number("rdp"), p.order(), p.rate("delta")), {}};
  };
  table["rdp_point/delta_cks"] = [](CaseParameters& p) -> CaseValue {
    return {std::exp(log_delta_from_rdp(p.number("rdp"), p.order(), p.number("epsilon"))), {}};
  };
}

}  // namespace

void add_renyi_cases(CaseTable& table) {
  add_points(table);
  table["gaussian_composed/rdp"] = gaussian_sum;
  table["zcdp_composed/rdp"] = zcdp_sum;
  table["poisson_subsampled_gaussian_composed/epsilon_via_rdp"] = sampled_gaussians;
  table["sampled_without_replacement_gaussian/rdp_upper_bound_wbk27"] = without_replacement;
  table["laplace/rdp"] = [](CaseParameters& p) -> CaseValue {
    return {repeats(p) * laplace_rdp(p.positive("b"), p.order()), {}};
  };
  table["laplace/epsilon_via_rdp"] = [](CaseParameters& p) -> CaseValue {
    const double b = p.positive("b"), count = repeats(p);
    return convert(p, [=](double order) { return count * laplace_rdp(b, order); });
  };
  table["discrete_gaussian/rdp"] = [](CaseParameters& p) -> CaseValue {
    return {repeats(p) * discrete_gaussian_rdp(p.positive("sigma"), p.count("sensitivity", 1), p.order()),
            {}};
  };
  table["discrete_gaussian/rdp_upper_bound"] = [](CaseParameters& p) -> CaseValue {
    const double ratio = p.number("sensitivity", 1) / p.positive("sigma");
    return {repeats(p) * p.order() * ratio * ratio / 2, {}};
  };
  table["skellam/rdp_exact_1d"] = [](CaseParameters& p) -> CaseValue {
    return {skellam_rdp(p.positive("variance"), whole_shift(p), p.order()), {}};
  };
  table["skellam/rdp_upper_bound"] = [](CaseParameters& p) -> CaseValue {
    const double order = p.order();
    if (order != std::floor(order)) throw NotUnderstood("the bound holds for whole orders");
    return {skellam_rdp_bound(p.positive("variance"), p.number("l1"), p.number("l2"), order), {}};
  };
  table["randomized_response/rdp"] = [](CaseParameters& p) -> CaseValue {
    return {repeats(p) * randomized_response_rdp(p.rate("noise_parameter"), p.positive("num_buckets"),
                                                 p.order(), special(p)),
            {}};
  };
  table["exponential_mechanism/rdp"] = [](CaseParameters& p) -> CaseValue {
    return {repeats(p) * exponential_mechanism_rdp(p.positive("epsilon"), p.order()), {}};
  };
  table["exponential_mechanism_self_composed/epsilon_via_rdp"] = [](CaseParameters& p) -> CaseValue {
    const double epsilon = p.positive("epsilon"), count = repeats(p);
    return convert(p, [=](double order) { return count * exponential_mechanism_rdp(epsilon, order); });
  };
  table["tree_aggregation_single_epoch/rdp"] = [](CaseParameters& p) -> CaseValue {
    return {tree_rdp(p.positive("sigma"), p.count("steps"), p.order()), {}};
  };
  table["tree_aggregation_single_epoch/epsilon_via_rdp"] = [](CaseParameters& p) -> CaseValue {
    const double sigma = p.positive("sigma");
    const int64_t steps = static_cast<int64_t>(tree_steps(p));
    return convert(p, [=](double order) { return tree_rdp(sigma, steps, order); });
  };
}

}  // namespace dpfa::accounting
