// Cases of the Gaussian and of releases with a Poisson-sampled record.
#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/accountant.h"
#include "accounting/calibrate.h"
#include "accounting/case_losses.h"
#include "accounting/hockey_stick.h"
#include "accounting/normal_distribution.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {
namespace {

// Log delta over the directions asked for, for a release with noise `sigma` relative to the sensitivity.
double sampled_gaussian_log_delta(double q, double sigma, const Adjacency& adjacency, double epsilon) {
  const LogDelta base = [sigma](double e) { return gaussian_log_delta(sigma, e); };
  double log_delta = -std::numeric_limits<double>::infinity();
  if (adjacency.remove)
    log_delta = std::max(log_delta, sampled_log_delta(base, q, epsilon, Direction::kRemove));
  if (adjacency.add) log_delta = std::max(log_delta, sampled_log_delta(base, q, epsilon, Direction::kAdd));
  if (adjacency.replace) log_delta = std::max(log_delta, replaced_gaussian_log_delta(sigma, q, epsilon));
  return log_delta;
}

struct Release {
  double q, noise;  // standard deviation / sensitivity
  int64_t steps;
  Adjacency adjacency;

  bool exact() const { return steps == 1 || q == 1 || q == 0; }
  double log_delta(double epsilon) const {
    const double equivalent = noise / std::sqrt(static_cast<double>(std::max<int64_t>(1, steps)));
    return sampled_gaussian_log_delta(steps == 0 ? 0 : q, steps == 1 ? noise : equivalent, adjacency,
                                      epsilon);
  }
};

Release read_release(CaseParameters& p) {
  return {p.rate("q"), p.number("sigma") / (p.has("sensitivity") ? p.positive("sensitivity") : 1),
          p.count("steps", 1), read_adjacency(p)};
}

CaseLosses losses_of(const Release& release) {
  return sampled_gaussian_losses(release.q, release.noise, release.steps, release.adjacency);
}

CaseValue sampled_delta(CaseParameters& p) {
  const Release release = read_release(p);
  const double epsilon = p.number("epsilon");
  if (release.exact()) return {std::exp(release.log_delta(epsilon)), {}};
  return {losses_of(release).delta(epsilon, p.check()), {}};
}

CaseValue sampled_epsilon(CaseParameters& p) {
  const Release release = read_release(p);
  const double delta = p.rate("delta");
  if (release.exact()) return {smallest_epsilon([&](double e) { return release.log_delta(e); }, delta), {}};
  return {losses_of(release).epsilon(delta, p.check()), {}};
}

CaseValue sampled_sigma(CaseParameters& p) {
  const double sensitivity = p.has("sensitivity") ? p.positive("sensitivity") : 1;
  const double epsilon = p.number("epsilon"), target = std::log(p.rate("delta"));
  Release release{p.rate("q"), 1, p.count("steps", 1), read_adjacency(p)};
  return smallest_scale([=](double sigma) mutable {
    release.noise = sigma / sensitivity;
    if (release.exact()) return release.log_delta(epsilon) <= target;
    const CaseLosses losses = losses_of(release);
    return loss_log_delta_upper(losses.pairs, epsilon, losses.ways) <= target;
  });
}

// By the reported epsilon, the smallest of the bounds.
CaseValue sampled_max_steps(CaseParameters& p) {
  const double epsilon = p.positive("epsilon"), delta = p.rate("delta");
  return {static_cast<double>(steps_for(epsilon, delta, p.rate("q"), p.positive("sigma"))), {}};
}

CaseValue sampled_rdp(CaseParameters& p) {
  const std::string direction = p.word("direction", "remove");
  const bool add = direction == "add" || direction.find("(N0 ||") != std::string::npos;
  if (!add && direction != "remove" && direction.find("|| N0)") == std::string::npos) {
    throw NotUnderstood("the direction '" + direction + "' is not understood");
  }
  const double rdp = sampled_gaussian_rdp(p.rate("q"), p.number("sigma"), p.order(),
                                          add ? Direction::kAdd : Direction::kRemove);
  return {static_cast<double>(p.count("steps", 1)) * rdp, {}};
}

CaseValue sampled_epsilon_via_rdp(CaseParameters& p) {
  const double q = p.rate("q"), sigma = p.number("sigma"), delta = p.rate("delta");
  const double steps = static_cast<double>(p.count("steps", 1));
  const RdpCurve curve = [=](double order) { return steps * sampled_gaussian_rdp(q, sigma, order); };
  return {(p.has("orders") ? best_epsilon(curve, p.orders(), delta) : best_epsilon(curve, delta)).value, {}};
}

CaseValue sampled_sigma_rdp(CaseParameters& p) {
  p.ignore("acct");
  p.ignore("epsilon_tolerance");
  const double q = p.rate("q"), delta = p.rate("delta"), epsilon = p.positive("epsilon");
  const double steps = static_cast<double>(p.count("steps"));
  return smallest_scale([=](double sigma) {
    return best_epsilon([=](double order) { return steps * sampled_gaussian_rdp(q, sigma, order); }, delta)
               .value <= epsilon;
  });
}

// The limit theorem of many sampled steps (accounting.md 3): a diagnostic without error term, never a
// guarantee.
double gdp_limit_log_delta(double q, double sigma, double steps, double epsilon) {
  const double mu = q * std::sqrt(steps * std::expm1(1 / sigma / sigma));
  return gaussian_log_delta(1 / mu, epsilon);
}

CaseValue sampled_epsilon_gdp(CaseParameters& p) {
  const double q = p.rate("q"), sigma = p.positive("sigma"), steps = static_cast<double>(p.count("steps"));
  return {
      smallest_epsilon([=](double e) { return gdp_limit_log_delta(q, sigma, steps, e); }, p.rate("delta")),
      {}};
}

CaseValue sampled_sigma_gdp(CaseParameters& p) {
  p.ignore("acct");
  p.ignore("epsilon_tolerance");
  const double q = p.rate("q"), steps = static_cast<double>(p.count("steps")),
               epsilon = p.positive("epsilon");
  const double target = std::log(p.rate("delta"));
  return smallest_scale(
      [=](double sigma) { return gdp_limit_log_delta(q, sigma, steps, epsilon) <= target; });
}

// Noise of one Gaussian that equals all steps of the case, relative to the sensitivity.
double gaussian_noise(CaseParameters& p) {
  const double sensitivity = p.has("sensitivity") ? p.positive("sensitivity") : 1;
  return p.number("sigma") / sensitivity / std::sqrt(static_cast<double>(p.count("steps", 1)));
}

CaseValue gaussian_epsilon_via_rdp(CaseParameters& p) {
  const double noise = gaussian_noise(p), delta = p.rate("delta");
  const RdpCurve curve = [noise](double order) { return sampled_gaussian_rdp(1, noise, order); };
  return {(p.has("orders") ? best_epsilon(curve, p.orders(), delta) : best_epsilon(curve, delta)).value, {}};
}

CaseValue gaussian_sigma(CaseParameters& p) {
  const double sensitivity = p.has("sensitivity") ? p.positive("sensitivity") : 1;
  const double scale = sensitivity * std::sqrt(static_cast<double>(p.count("steps", 1)));
  const double epsilon = p.number("epsilon"), target = std::log(p.rate("delta"));
  return smallest_scale([=](double sigma) { return gaussian_log_delta(sigma / scale, epsilon) <= target; });
}

CaseValue gaussian_power(CaseParameters& p) {
  const double fpr = p.rate("fpr");
  if (fpr == 0 || fpr == 1) return {fpr, {}};
  return {static_cast<double>(normal_cdf(normal_quantile(fpr) + 1 / gaussian_noise(p))), {}};
}

double laplace_log_delta(double b, double epsilon) {
  if (epsilon >= 1 / b) return -std::numeric_limits<double>::infinity();
  return std::log(-std::expm1(epsilon < -1 / b ? epsilon : (epsilon - 1 / b) / 2));
}

double sampled_laplace_log_delta(double q, double b, const Adjacency& adjacency, double epsilon) {
  if (adjacency.replace) throw NotUnderstood("replacing a record is not understood for this mechanism");
  const LogDelta base = [b](double e) { return laplace_log_delta(b, e); };
  double log_delta = -std::numeric_limits<double>::infinity();
  if (adjacency.remove)
    log_delta = std::max(log_delta, sampled_log_delta(base, q, epsilon, Direction::kRemove));
  if (adjacency.add) log_delta = std::max(log_delta, sampled_log_delta(base, q, epsilon, Direction::kAdd));
  return log_delta;
}

CaseLosses laplace_losses(double q, double b, int64_t steps, const Adjacency& adjacency) {
  if (adjacency.replace) throw NotUnderstood("replacing a record is not understood for this mechanism");
  CaseLosses losses{{}, ways_of(adjacency)};
  if (q > 0) losses.pairs.push_back({LossPair::sampled_laplace(q, b), steps});
  return losses;
}

CaseValue laplace_b(CaseParameters& p) {
  const double q = p.has("q") ? p.rate("q") : 1, sensitivity = p.number("sensitivity", 1);
  const double epsilon = p.number("epsilon"), target = std::log(p.rate("delta"));
  const Adjacency adjacency = read_adjacency(p);
  const int64_t steps = p.count("steps", 1);
  return smallest_scale([=](double b) {
    if (steps == 1) return sampled_laplace_log_delta(q, b / sensitivity, adjacency, epsilon) <= target;
    const CaseLosses losses = laplace_losses(q, b / sensitivity, steps, adjacency);
    return loss_log_delta_upper(losses.pairs, epsilon, losses.ways) <= target;
  });
}

CaseValue sampled_laplace_delta(CaseParameters& p) {
  const double b = p.positive("b") / p.number("sensitivity", 1), q = p.rate("q"),
               epsilon = p.number("epsilon");
  const Adjacency adjacency = read_adjacency(p);
  const int64_t steps = p.count("steps", 1);
  if (steps == 1) return {std::exp(sampled_laplace_log_delta(q, b, adjacency, epsilon)), {}};
  return {laplace_losses(q, b, steps, adjacency).delta(epsilon, p.check()), {}};
}

CaseValue sampled_laplace_epsilon(CaseParameters& p) {
  const double b = p.positive("b") / p.number("sensitivity", 1), q = p.rate("q"), delta = p.rate("delta");
  const Adjacency adjacency = read_adjacency(p);
  const int64_t steps = p.count("steps", 1);
  if (steps != 1) return {laplace_losses(q, b, steps, adjacency).epsilon(delta, p.check()), {}};
  return {smallest_epsilon([=](double e) { return sampled_laplace_log_delta(q, b, adjacency, e); }, delta),
          {}};
}

}  // namespace

void add_gaussian_cases(CaseTable& table) {
  table["poisson_subsampled_gaussian/rdp"] = sampled_rdp;
  table["poisson_subsampled_gaussian/delta"] = sampled_delta;
  table["poisson_subsampled_gaussian/epsilon"] = sampled_epsilon;
  table["poisson_subsampled_gaussian/sigma"] = sampled_sigma;
  table["poisson_subsampled_gaussian/max_steps"] = sampled_max_steps;
  table["poisson_subsampled_gaussian/epsilon_via_rdp"] = sampled_epsilon_via_rdp;
  table["poisson_subsampled_gaussian/sigma_rdp"] = sampled_sigma_rdp;
  table["poisson_subsampled_gaussian/epsilon_gdp_clt"] = sampled_epsilon_gdp;
  table["poisson_subsampled_gaussian/sigma_gdp"] = sampled_sigma_gdp;
  table["gaussian/rdp"] = [](CaseParameters& p) -> CaseValue {
    return {sampled_gaussian_rdp(1, gaussian_noise(p), p.order()), {}};
  };
  table["gaussian/delta"] = [](CaseParameters& p) -> CaseValue {
    return {std::exp(gaussian_log_delta(gaussian_noise(p), p.number("epsilon"))), {}};
  };
  table["gaussian/epsilon"] = [](CaseParameters& p) -> CaseValue {
    const double noise = gaussian_noise(p);
    return {smallest_epsilon([noise](double e) { return gaussian_log_delta(noise, e); }, p.rate("delta")),
            {}};
  };
  table["deterministic_batches_one_epoch/delta"] =
      table["gaussian/delta"];  // one record, one batch, one release
  table["gaussian/epsilon_via_rdp"] = gaussian_epsilon_via_rdp;
  table["gaussian/sigma"] = gaussian_sigma;
  table["gaussian/tpr"] = gaussian_power;
  table["gaussian/sigma_classic_dwork_roth"] = [](CaseParameters& p) -> CaseValue {
    return {std::sqrt(2 * std::log(1.25 / p.rate("delta"))) / p.positive("epsilon"), {}};
  };
  table["laplace/b"] = laplace_b;
  table["poisson_subsampled_laplace/b"] = laplace_b;
  table["poisson_subsampled_laplace/delta"] = sampled_laplace_delta;
  table["poisson_subsampled_laplace/epsilon"] = sampled_laplace_epsilon;
}

}  // namespace dpfa::accounting
