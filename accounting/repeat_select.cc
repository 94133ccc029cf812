#include "accounting/repeat_select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSlack = 1e-10;  // more than the rounding of a divergence

// log(e^x - 1) for x > 0.
double log_expm1(double x) { return x > 30 ? x + std::log1p(-std::exp(-x)) : std::log(std::expm1(x)); }

// log mean as a function of y = log(1/g): (1 - g) / g = e^y - 1 and 1 - g^shape = 1 - e^(-shape y).
double log_mean_of(double y, double shape) {
  if (shape == 0) return log_expm1(y) - std::log(y);
  const double log_gap = shape > 0 ? std::log(-std::expm1(-shape * y)) : log_expm1(-shape * y);
  return log_expm1(y) + std::log(std::abs(shape)) - log_gap;
}

// min over b of (1 - 1/b) D(b) + log(1/gamma) / b; every b >= 1 is valid.
double least_selection_cost(const RdpCurve& run, double log_inverse) {
  double best = log_inverse;  // b = 1
  for (double log_excess = std::log(1e-3); log_excess < std::log(1e6); log_excess += 0.02) {
    const double b = 1 + std::exp(log_excess);
    const double rdp = run(b);
    if (rdp >= 0) best = std::min(best, (1 - 1 / b) * rdp + log_inverse / b);
  }
  const double pure = run(kInfinity);
  return pure >= 0 ? std::min(best, pure) : best;
}

}  // namespace

double negative_binomial_gamma(const RunCount& runs) {
  // The mean grows with log(1/gamma).
  double low = 0, high = 1;
  const double log_mean = std::log(runs.mean);
  while (log_mean_of(high, runs.shape) < log_mean) high *= 2;
  for (int i = 0; i < 200; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (log_mean_of(middle, runs.shape) < log_mean ? low : high) = middle;
  }
  return std::exp(-high * (1 + 1e-14));
}

RdpCurve repeat_and_select(const RdpCurve& run, const RunCount& runs) {
  const bool poisson = std::isinf(runs.shape) && runs.shape > 0;
  if (!(runs.mean >= 1 && runs.mean < 1e15) || (!poisson && !(runs.mean > 1)))
    throw ConfigError("the mean number of runs must be above 1 (Poisson: at least 1) and finite");
  if (!(runs.shape > -1)) throw ConfigError("the shape of the number of runs must be above -1");
  const double log_mean = std::log(runs.mean);
  if (!poisson) {
    const double cost =
        (1 + runs.shape) * least_selection_cost(run, -std::log(negative_binomial_gamma(runs)));
    return [run, cost, log_mean](double order) {
      if (order == 1) return kInfinity;
      return (run(order) + cost + log_mean / (order - 1)) * (1 + kSlack);
    };
  }
  const double mean = runs.mean;
  return [run, mean, log_mean](double order) {
    if (order == 1 || std::isinf(order)) return kInfinity;
    const double epsilon = std::log1p(1 / (order - 1));
    const double delta = std::exp(best_log_delta(run, epsilon).value);
    double best = kInfinity;  // RDP grows with the order, so a higher one bounds this one
    for (double above = order; above < 64 * order; above = 1 + (above - 1) * 1.1) {
      const double rdp = run(above);
      if (rdp >= 0) best = std::min(best, rdp + log_mean / (above - 1));
    }
    return (best + mean * delta) * (1 + kSlack);
  };
}

OrderBound repeat_and_select_epsilon(std::span<const Charge> run, const RunCount& runs, double delta) {
  if (!(delta > 0 && delta < 1))
    throw ConfigError("delta " + std::to_string(delta) + ": expected a number between 0 and 1");
  const Schedule schedule = simplify(run);
  if (log_no_failure(schedule) < 0)
    throw UnsupportedEvent("an event of the run has a delta of its own, which repetition does not bound");
  const auto rdp = std::make_shared<ScheduleRdp>(schedule);
  return best_epsilon(repeat_and_select([rdp](double order) { return (*rdp)(order) * (1 + kSlack); }, runs),
                      delta);
}

}  // namespace dpfa::accounting
