#include "accounting/pld/composed_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "accounting/hockey_stick.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr double kSlack = 1e-11;  // more than the rounding of a few logarithms and exponentials up to 1000

// log max_(x >= 0) (1 - e^-x) e^(-tilt x): the most that one unit of misplaced tilted mass changes delta(0).
double log_error_weight(double tilt) {
  return tilt == 0 ? 0 : tilt * (std::log(tilt) - std::log1p(tilt)) - std::log1p(tilt);
}

}  // namespace

ComposedLoss::ComposedLoss(GridLaw law, double tilt, double log_mass, double error, double infinite,
                           Side side)
    : law_(std::move(law)),
      tilt_(tilt),
      log_mass_(log_mass),
      error_(error),
      infinite_(infinite),
      side_(side) {
  p_above_ = q_above_ = law_.mass;
  const double p_factor = std::exp(-tilt_ * law_.step), q_factor = std::exp(-(1 + tilt_) * law_.step);
  for (size_t i = law_.mass.size(); i-- > 1;) {
    p_above_[i - 1] += p_factor * p_above_[i];
    q_above_[i - 1] += q_factor * q_above_[i];
  }
}

double ComposedLoss::finite_log_delta(double epsilon) const {
  const bool upper = side_ == Side::kUpper;
  const double size = static_cast<double>(law_.mass.size());
  // The shift is a rounded multiple of that of one release.
  const double shift_rounding = 32 * kUnit * (std::abs(law_.shift) + std::abs(epsilon));
  epsilon += upper ? -shift_rounding : shift_rounding;
  const double place = std::floor((epsilon - law_.shift) / law_.step) - static_cast<double>(law_.first) + 1;
  // Seen from the first loss above epsilon; where none is, only the allowance is left.
  const size_t above = static_cast<size_t>(std::clamp(place, 0.0, size - 1));
  const double origin = law_.loss(above);
  double finite = 0;
  if (place < size) {
    const double p = p_above_[above], q = std::exp(epsilon - origin) * q_above_[above];
    const double rounding = (8 * (size + std::abs(epsilon)) * kUnit + kSlack) * p;
    finite = std::max(0.0, p - q) + (upper ? rounding : -rounding);
  }
  const double allowance = error_ * std::exp(log_error_weight(tilt_) - tilt_ * (epsilon - origin));
  const double sum = finite + (upper ? allowance : -allowance);
  if (std::isnan(sum)) return upper ? 0 : -kInfinity;
  if (!(sum > 0)) return -kInfinity;
  const double slack = 4 * kUnit * (std::abs(log_mass_) + std::abs(tilt_ * origin)) + kSlack;
  return std::log(sum) + log_mass_ - tilt_ * origin + (upper ? slack : -slack);
}

double ComposedLoss::log_delta(double epsilon) const {
  if (law_.mass.empty() && side_ == Side::kUpper) return 0;
  const double finite = law_.mass.empty() ? -kInfinity : finite_log_delta(epsilon);
  if (infinite_ == 0) return std::min(0.0, finite);
  return std::min(0.0, std::log(infinite_ + std::exp(finite)));
}

double ComposedLoss::epsilon(double delta) const {
  const double target = std::log(delta);
  if (side_ == Side::kUpper) return smallest_epsilon([this](double e) { return log_delta(e); }, delta);
  if (infinite_ > delta) return kInfinity;
  if (law_.mass.empty()) return 0;
  const auto above = [&](double epsilon) { return log_delta(epsilon) > target; };
  const double highest = law_.loss(law_.mass.size() - 1), lowest = std::max(0.0, law_.loss(0));
  const double stride = law_.deviation() / 8;
  double low = highest, high = highest;
  while (!above(low)) {
    if (!(low > lowest)) return 0;
    high = low;
    low = std::max(lowest, low - std::max(stride, 1e-3 * (highest - lowest)));
  }
  for (int i = 0; i < 60; ++i) {
    const double middle = low + (high - low) / 2;
    (above(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace dpfa::accounting
