#include "accounting/rdp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Orders are 1 + e^(k kSpacing) for whole k: one set for every curve, so that a curve that lies above another
// has the larger minimum over it.
constexpr double kSpacing = 1.0 / 512;
constexpr int kFirst = -2358, kLast = 4259;  // of the first pass: a - 1 from 0.01 to 4096
constexpr int kLeast = -7000, kMost = 7074;  // of its extension: from 1e-6 to 1e6
constexpr int kStride = 192;

double improved_epsilon(double rdp, double order, double delta) {
  if (std::isinf(order)) return rdp;
  return std::max(0.0, rdp + std::log1p(-1 / order) - std::log(delta * order) / (order - 1));
}

double improved_log_delta(double rdp, double order, double epsilon) {
  if (std::isinf(order)) return rdp <= epsilon ? -kInfinity : 0;
  return std::min(0.0, (order - 1) * (rdp - epsilon + std::log1p(-1 / order)) - std::log(order));
}

// False for NaN too.
double usable(double rdp) { return rdp >= 0 || DPFA_PLANT("negative_rdp_accepted") ? rdp : kInfinity; }

// The least bound(order) over the lattice, where it has one valley; elsewhere one of its values.
template <typename Bound>
OrderBound search_orders(const Bound& bound) {
  OrderBound best{kInfinity, 0};
  int best_place = kFirst;
  auto evaluate = [&](int place) {
    const double order = 1 + std::exp(place * kSpacing);
    const double value = bound(order);
    const bool better = value < best.value || best.order == 0;
    if (better) best = {value, order}, best_place = place;
    return better;
  };
  // The valley of a sampled Gaussian can have a small hill in it, so the pass goes on for a few places.
  int worse = 0;
  for (int place = kFirst; place <= kMost && worse < 6; place += kStride) {
    worse = evaluate(place) ? 0 : worse + 1;
    if (place > kLast && worse > 0) break;
  }
  for (int place = kFirst - kStride; best_place == place + kStride && place >= kLeast; place -= kStride) {
    evaluate(place);
  }
  for (int stride = kStride / 2;
       stride > 0 && best.value<kInfinity; stride = stride> 1 ? (stride + 1) / 2 : 0) {
    while (evaluate(best_place + stride)) continue;
    while (evaluate(best_place - stride)) continue;
  }
  return best;
}

}  // namespace

double epsilon_from_rdp(double rdp, double order, double delta) {
  rdp = usable(rdp);
  if (delta * delta + std::expm1(-rdp) > 0) return 0;
  return order > 1 ? improved_epsilon(rdp, order, delta) : kInfinity;
}

double log_delta_from_rdp(double rdp, double order, double epsilon) {
  rdp = usable(rdp);
  if (std::isinf(order)) return improved_log_delta(rdp, order, epsilon);
  const double total_variation = std::log(-std::expm1(-rdp)) / 2;
  return order > 1 ? std::min(total_variation, improved_log_delta(rdp, order, epsilon)) : total_variation;
}

OrderBound best_epsilon(const RdpCurve& curve, double delta) {
  if (epsilon_from_rdp(curve(1), 1, delta) == 0) return {0, 1};
  const OrderBound best =
      search_orders([&](double order) { return improved_epsilon(usable(curve(order)), order, delta); });
  const OrderBound pure{usable(curve(kInfinity)), kInfinity};  // the largest loss
  return pure.value < best.value ? pure : best;
}

OrderBound best_log_delta(const RdpCurve& curve, double epsilon) {
  OrderBound best =
      search_orders([&](double order) { return improved_log_delta(usable(curve(order)), order, epsilon); });
  for (double order : {1.0, kInfinity}) {
    const double value = log_delta_from_rdp(curve(order), order, epsilon);
    if (value < best.value) best = {value, order};
  }
  return best;
}

OrderBound best_epsilon(const RdpCurve& curve, std::span<const double> orders, double delta) {
  OrderBound best{kInfinity, 0};
  for (double order : orders) {
    const double value = epsilon_from_rdp(curve(order), order, delta);
    if (value < best.value) best = {value, order};
  }
  return best;
}

OrderBound best_log_delta(const RdpCurve& curve, std::span<const double> orders, double epsilon) {
  OrderBound best{0, 0};
  for (double order : orders) {
    const double value = log_delta_from_rdp(curve(order), order, epsilon);
    if (value < best.value) best = {value, order};
  }
  return best;
}

double log_even_difference_moment(double noise_multiplier, int power) {
  DPFA_CHECK(power > 0 && power % 2 == 0, power);
  constexpr double kReach = 12, kHalfLogTwoPi = 0.91893853320467274178;
  // Peaks lie near +-sqrt(power), where 1 - w is nearly linear, and at power / s, where w^power is all. An
  // entire integrand whose logarithm bends by at most 2: the error is near e^(-pi^2 / step^2).
  const double root = std::sqrt(static_cast<double>(power));
  const double step = 0.3 * std::min(1.0, noise_multiplier);
  const double start = -root - kReach, end = std::max(root, power / noise_multiplier) + kReach;
  if (!((end - start) / step <= 2e5)) return kInfinity;  // still an upper bound
  std::vector<double> logs;
  for (double i = std::floor(start / step); i * step <= end; ++i) {
    const double t = i * step;
    const double x = t / noise_multiplier - 0.5 / noise_multiplier / noise_multiplier;
    const double log_gap = x > 1 ? x + std::log1p(-std::exp(-x)) : std::log(std::abs(std::expm1(x)));
    logs.push_back(power * log_gap - t * t / 2);
  }
  const double largest = *std::max_element(logs.begin(), logs.end());
  double sum = 0;
  for (double log : logs) sum += std::exp(log - largest);
  return largest + std::log(sum * step) - kHalfLogTwoPi;
}

}  // namespace dpfa::accounting
