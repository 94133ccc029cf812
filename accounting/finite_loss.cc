#include "accounting/finite_loss.h"

#include <algorithm>
#include <cmath>

#include "accounting/hockey_stick.h"
#include "src/base/check.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {
constexpr double kResolution = 1e-11;
constexpr size_t kMostProducts = 100'000'000;
}  // namespace

FiniteLoss::FiniteLoss(const std::vector<double>& p, const std::vector<double>& q) {
  DPFA_CHECK(p.size() == q.size());
  atoms_.clear();
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0 && q[i] > 0) add(std::log(p[i] / q[i]), p[i]);
    if (p[i] > 0 && q[i] == 0) infinite_ += p[i];
  }
}

FiniteLoss FiniteLoss::approximate_dp(double epsilon, double delta) {
  const double high = (1 - delta) / (1 + std::exp(-epsilon)), low = (1 - delta) / (1 + std::exp(epsilon));
  FiniteLoss result;
  result.atoms_.clear();
  result.add(epsilon, high);
  result.add(-epsilon, low);
  result.infinite_ = delta;
  return result;
}

void FiniteLoss::add(double loss, double mass) {
  if (std::abs(loss) > 9e18 * kResolution) throw Unsupported("a privacy loss of " + std::to_string(loss));
  const auto [place, added] = atoms_.try_emplace(std::llround(loss / kResolution), Atom{loss, 0.0});
  place->second.mass += mass;
}

FiniteLoss FiniteLoss::composed_with(const FiniteLoss& other) const {
  if (atoms_.size() * other.atoms_.size() > kMostProducts)
    throw Unsupported("too many different privacy losses");
  FiniteLoss result;
  result.atoms_.clear();
  for (const auto& [key, a] : atoms_) {
    for (const auto& [other_key, b] : other.atoms_) result.add(a.loss + b.loss, a.mass * b.mass);
  }
  result.infinite_ = infinite_ + other.infinite_ - infinite_ * other.infinite_;
  return result;
}

FiniteLoss FiniteLoss::repeated(int64_t count) const {
  FiniteLoss result, power = *this;
  for (; count > 0; count >>= 1) {
    if (count & 1) result = result.composed_with(power);
    if (count > 1) power = power.composed_with(power);
  }
  return result;
}

double FiniteLoss::delta(double epsilon) const {
  double sum = infinite_;
  for (const auto& [key, atom] : atoms_) {
    if (atom.loss > epsilon) sum += atom.mass * -std::expm1(epsilon - atom.loss);
  }
  return sum;
}

double FiniteLoss::epsilon(double delta) const {
  return smallest_epsilon([this](double e) { return std::log(this->delta(e)); }, delta);
}

double FiniteLoss::power(double fpr) const {
  double found = infinite_, spent = 0;
  for (auto atom = atoms_.rbegin(); atom != atoms_.rend(); ++atom) {
    const double price = atom->second.mass * std::exp(-atom->second.loss);
    if (spent + price >= fpr) return found + (fpr - spent) / price * atom->second.mass;
    spent += price;
    found += atom->second.mass;
  }
  return std::min(1.0, found);
}

}  // namespace dpfa::accounting
