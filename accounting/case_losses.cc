#include "accounting/case_losses.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <boost/math/special_functions/beta.hpp>

#include "accounting/normal_distribution.h"

namespace dpfa::accounting {
namespace {

bool asks_for_a_bound(const std::string& check) {
  return check == "upper_bound_tight" || check == "at_least" || check == "greater_than" ||
         check == "calibration";
}

// The lower bound of laws with many atoms is far below; the upper one is then the better value.
double nearest(double lower, double upper) {
  return upper - lower <= std::max(1e-9, 0.005 * upper) ? lower + (upper - lower) / 2 : upper;
}

// One row of `events`: numbers and lists by name, or in the order of `names`.
nlohmann::json field(const nlohmann::json& row, const std::vector<std::string>& names, size_t index) {
  if (row.is_object() && row.contains(names[index])) return row.at(names[index]);
  if (row.is_array() && index < row.size()) return row.at(index);
  return nullptr;
}

double number_of(const nlohmann::json& value, const std::string& name) {
  if (!value.is_number()) throw NotUnderstood("an event lacks the number '" + name + "'");
  return value.get<double>();
}

std::vector<double> numbers_of(const nlohmann::json& value, const std::string& name) {
  if (value.is_number()) return {value.get<double>()};
  if (!value.is_array()) throw NotUnderstood("an event lacks the list '" + name + "'");
  std::vector<double> numbers;
  for (const nlohmann::json& one : value) numbers.push_back(number_of(one, name));
  return numbers;
}

int64_t count_of(const nlohmann::json& value) {
  if (value.is_null()) return 1;
  const double number = number_of(value, "count");
  if (!(number >= 0 && number < 9e15) || number != std::floor(number))
    throw NotUnderstood("an event's count is no count");
  return static_cast<int64_t>(number);
}

// Events of a case as rows, each an object or a list in the order of `names`, of which the last is a count.
std::vector<PairCount> pairs_of_events(
    CaseParameters& p, const std::vector<std::string>& names,
    const std::function<LossPair(const std::vector<nlohmann::json>&)>& pair) {
  std::vector<PairCount> pairs;
  const nlohmann::json& events = p.list("events");
  for (const nlohmann::json& row : events) {
    if (!row.is_structured() || row.size() > names.size() || row.size() + 1 < names.size())
      throw NotUnderstood("an event does not have the fields expected");
    std::vector<nlohmann::json> fields;
    for (size_t i = 0; i < names.size(); ++i) fields.push_back(field(row, names, i));
    pairs.push_back({pair(fields), count_of(fields.back())});
  }
  return pairs;
}

LossPair mixture_pair(const std::vector<nlohmann::json>& fields) {
  return LossPair::gaussian_mixture(numbers_of(fields[1], "sensitivities"),
                                    numbers_of(fields[2], "sampling_probs"),
                                    number_of(fields[0], "standard_deviation"));
}

// P[Bin(n, q) >= least].
double binomial_at_least(double least, double n, double q) {
  return least <= 0 ? 1 : least > n ? 0 : boost::math::ibeta(least, n - least + 1, q);
}

// The record is kept with the rate that it has given that the others fill the batch, and then takes the place
// of another one.
LossPair truncated_pair(const std::vector<nlohmann::json>& fields) {
  const double n = number_of(fields[0], "dataset_size"), q = number_of(fields[1], "sampling_probability"),
               batch = number_of(fields[2], "truncated_batch_size"),
               sigma = number_of(fields[3], "noise_multiplier");
  if (!(n >= 1 && q > 0 && q <= 1 && batch >= 1 && sigma > 0))
    throw NotUnderstood(
        "an event is not [dataset_size, sampling_probability, truncated_batch_size, noise_multiplier]");
  const double full = binomial_at_least(batch, n - 1, q);
  if (full == 0) return LossPair::sampled_gaussian(q, sigma);
  const double kept = std::min(1.0, binomial_at_least(batch + 1, n, q) * batch / n / full);
  return LossPair::mixture({{1 - full, LossPair::sampled_gaussian(q, sigma)},
                            {full, LossPair::sampled_gaussian(kept, sigma / 2)}});
}

CaseLosses sampled_events(CaseParameters& p) {
  const Adjacency adjacency = read_adjacency(p);
  CaseLosses losses{{}, ways_of(adjacency)};
  for (auto& row : p.rows({"q", "sigma", "steps", "sensitivity"})) {
    if (!row.contains("q") || !row.contains("sigma")) throw NotUnderstood("an event lacks q or sigma");
    row.try_emplace("steps", 1);
    row.try_emplace("sensitivity", 1);
    const CaseLosses one = sampled_gaussian_losses(row["q"], row["sigma"] / row["sensitivity"],
                                                   static_cast<int64_t>(row["steps"]), adjacency);
    losses.pairs.insert(losses.pairs.end(), one.pairs.begin(), one.pairs.end());
  }
  return losses;
}

CaseLosses laplace_events(CaseParameters& p) {
  CaseLosses losses;
  for (double b : p.numbers("b")) losses.pairs.push_back({LossPair::sampled_laplace(1, b), 1});
  return losses;
}

CaseValue on_grid(CaseParameters& p, GridRule rule) {
  const Adjacency adjacency = read_adjacency(p);
  const CaseLosses losses =
      sampled_gaussian_losses(p.rate("q"), p.positive("sigma"), p.count("steps", 1), adjacency);
  return {
      loss_epsilon_on_grid(losses.pairs, p.rate("delta"), p.positive("discretization"), rule, losses.ways),
      {}};
}

// The discretised loss of one Gaussian between the losses that its noise and the shifted noise leave with
// probability e^(log_mass_truncation) at most; what lies below falls to the first point, what lies above to
// infinity.
CaseValue gaussian_masses(CaseParameters& p, GridRule rule) {
  const double sigma = p.positive("sigma") / p.number("sensitivity", 1), step = p.positive("discretization");
  const double reach = -static_cast<double>(
      normal_quantile(0.5 * std::exp(static_cast<long double>(p.number("log_mass_truncation")))));
  const double middle = 1 / (2 * sigma * sigma), top = middle + reach / sigma;
  GridRange range{step, 0, static_cast<int64_t>(std::floor(-top / step)),
                  static_cast<int64_t>(std::ceil(top / step))};
  CaseValue value;
  nlohmann::json masses = nlohmann::json::object();
  if (rule == GridRule::kConnectDots) {
    const DiscreteLoss loss = discretise(LossPair::sampled_gaussian(1, sigma), range, 0, Side::kUpper);
    for (size_t i = 0; i < loss.law.mass.size(); ++i)
      masses[std::to_string(loss.law.first + static_cast<int64_t>(i))] =
          loss.law.mass[i] * std::exp(loss.log_mass);
    value.masses = {{"pmf", masses}, {"infinity_mass", loss.infinite}};
    return value;
  }
  // From the tail that is smaller, so that small masses keep their digits.
  const auto place = [&](double loss) { return (loss - middle) * sigma; };
  const auto between = [](double low, double high) {
    return static_cast<double>(low > 0 ? normal_cdf(-low) - normal_cdf(-high)
                                       : normal_cdf(high) - normal_cdf(low));
  };
  double before = -std::numeric_limits<double>::infinity();
  for (int64_t i = static_cast<int64_t>(std::ceil(-top / step)); i <= range.last; ++i) {
    const double here = place(std::min(top, static_cast<double>(i) * step));
    masses[std::to_string(i)] = between(before, here);
    before = here;
  }
  value.masses = {{"pmf", masses}, {"infinity_mass", static_cast<double>(normal_cdf(-before))}};
  return value;
}

CaseValue smallest_sampled_sigma(CaseParameters& p) {
  p.ignore("acct");
  p.ignore("epsilon_tolerance");
  const double q = p.rate("q"), delta = p.rate("delta"), epsilon = p.positive("epsilon");
  const int64_t steps = p.count("steps", 1);
  return smallest_scale([=](double sigma) {
    const CaseLosses losses = sampled_gaussian_losses(q, sigma, steps, {true, true, false});
    return loss_epsilon_upper(losses.pairs, delta) <= epsilon;
  });
}

}  // namespace

Ways ways_of(const Adjacency& adjacency) {
  if (adjacency.replace || (adjacency.remove && !adjacency.add)) return Ways::kGiven;
  return adjacency.remove ? Ways::kBoth : Ways::kSwapped;
}

CaseLosses sampled_gaussian_losses(double rate, double noise, int64_t count, const Adjacency& adjacency) {
  if (!(rate >= 0 && rate <= 1) || !(noise > 0)) throw NotUnderstood("a rate or a noise is out of range");
  CaseLosses losses{{}, ways_of(adjacency)};
  if (rate == 0) return losses;
  losses.pairs.push_back(
      {adjacency.replace ? LossPair::replaced_gaussian(rate, noise) : LossPair::sampled_gaussian(rate, noise),
       count});
  return losses;
}

double CaseLosses::epsilon(double delta, const std::string& check) const {
  const double upper = loss_epsilon_upper(pairs, delta, ways);
  return asks_for_a_bound(check) ? upper : nearest(loss_epsilon_lower(pairs, delta, ways), upper);
}

double CaseLosses::delta(double epsilon, const std::string& check) const {
  const double upper = std::exp(loss_log_delta_upper(pairs, epsilon, ways));
  return asks_for_a_bound(check) ? upper
                                 : nearest(std::exp(loss_log_delta_lower(pairs, epsilon, ways)), upper);
}

double CaseLosses::power(double fpr, const std::string& check) const {
  const double upper = loss_power_upper(pairs, fpr, ways);
  return asks_for_a_bound(check) ? upper : nearest(loss_power_lower(pairs, fpr, ways), upper);
}

void add_loss_cases(CaseTable& table) {
  table["poisson_subsampled_gaussian_composed/epsilon"] = [](CaseParameters& p) -> CaseValue {
    return {sampled_events(p).epsilon(p.rate("delta"), p.check()), {}};
  };
  table["poisson_subsampled_gaussian_composed/delta"] = [](CaseParameters& p) -> CaseValue {
    return {sampled_events(p).delta(p.number("epsilon"), p.check()), {}};
  };
  table["poisson_subsampled_gaussian/epsilon_prv_upper"] = [](CaseParameters& p) -> CaseValue {
    const double error = p.positive("eps_error"), delta = p.rate("delta");
    const CaseLosses losses =
        sampled_gaussian_losses(p.rate("q"), p.positive("sigma"), p.count("steps", 1), read_adjacency(p));
    // Gopi, Lee and Wutschitz 2021: the estimate at a delta smaller by 1/1000, plus the error allowed.
    if (p.check() == "near") return {losses.epsilon(delta * 0.999, p.check()) + error, {}};
    return {loss_epsilon_upper(losses.pairs, delta, losses.ways), {}};
  };
  table["poisson_subsampled_gaussian/sigma_prv"] = smallest_sampled_sigma;
  table["poisson_subsampled_gaussian/epsilon_pld_connect_dots"] = [](CaseParameters& p) {
    return on_grid(p, GridRule::kConnectDots);
  };
  table["poisson_subsampled_gaussian/epsilon_pld_privacy_buckets"] = [](CaseParameters& p) {
    return on_grid(p, GridRule::kRoundUp);
  };
  table["gaussian/pld_pmf_connect_dots"] = [](CaseParameters& p) {
    return gaussian_masses(p, GridRule::kConnectDots);
  };
  table["gaussian/pld_pmf_privacy_buckets"] = [](CaseParameters& p) {
    return gaussian_masses(p, GridRule::kRoundUp);
  };
  table["laplace_composed/epsilon"] = [](CaseParameters& p) -> CaseValue {
    return {laplace_events(p).epsilon(p.rate("delta"), p.check()), {}};
  };
  table["laplace_composed/delta"] = [](CaseParameters& p) -> CaseValue {
    return {laplace_events(p).delta(p.number("epsilon"), p.check()), {}};
  };
  table["mixture_of_gaussians_composed/epsilon"] = [](CaseParameters& p) -> CaseValue {
    const CaseLosses losses{
        pairs_of_events(p, {"standard_deviation", "sensitivities", "sampling_probs", "count"}, mixture_pair)};
    return {losses.epsilon(p.rate("delta"), p.check()), {}};
  };
  table["truncated_poisson_subsampled_gaussian_composed/epsilon"] = [](CaseParameters& p) -> CaseValue {
    const CaseLosses losses{pairs_of_events(
        p, {"dataset_size", "sampling_probability", "truncated_batch_size", "noise_multiplier", "count"},
        truncated_pair)};
    return {losses.epsilon(p.rate("delta"), p.check()), {}};
  };
}

}  // namespace dpfa::accounting
