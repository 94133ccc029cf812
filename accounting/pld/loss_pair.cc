#include "accounting/pld/loss_pair.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/check.h"

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;
constexpr double kUnderflow = 1e-307;

// log(1 + expm1(x) / rate), the loss of the unsampled pair where the sampled one has loss x; -infinity where
// no place has so small a loss.
double unsampled_loss(double x, double rate) {
  if (rate == 1) return x;
  if (x > 40) return x - std::log(rate) + std::log1p((rate - 1) * std::exp(-x));
  const double growth = std::expm1(x) / rate;
  return growth <= -1 ? -kInfinity : std::log1p(growth);
}

// One tail of a distribution, always the smaller one, so that differences keep their relative precision.
struct Tail {
  double mass;
  bool upper;
  double error;
};

Tail gaussian_tail(double x) {
  if (std::isinf(x)) return {0, x > 0, 0};
  const double mass = std::erfc(std::abs(x) * M_SQRT1_2) / 2;
  // erfc itself, and the rounding of x, which a tail magnifies by x^2 + 1.
  return {mass, x > 0, (8 + 4 * (1 + x * x)) * kUnit * mass};
}

Tail laplace_tail(double x) {
  if (std::isinf(x)) return {0, x > 0, 0};
  const double mass = std::exp(-std::abs(x)) / 2;
  return {mass, x > 0, (4 + 4 * std::abs(x)) * kUnit * mass};
}

double between(const Tail& from, const Tail& to) {
  if (from.upper) return from.mass - to.mass;
  if (!to.upper) return to.mass - from.mass;
  return 1 - from.mass - to.mass;
}

// log sum_i w_i e^((2 s_i z - s_i^2) / (2 sigma^2)) and its derivative.
std::pair<double, double> mixture_loss(const std::vector<double>& shifts, const std::vector<double>& weights,
                                       double sigma, double z) {
  double largest = -kInfinity, sum = 0, slope = 0;
  std::vector<double> exponents(shifts.size());
  for (size_t i = 0; i < shifts.size(); ++i) {
    exponents[i] = std::log(weights[i]) + shifts[i] * (2 * z - shifts[i]) / (2 * sigma * sigma);
    largest = std::max(largest, exponents[i]);
  }
  for (size_t i = 0; i < shifts.size(); ++i) {
    const double term = std::exp(exponents[i] - largest);
    sum += term;
    slope += term * shifts[i] / (sigma * sigma);
  }
  return {largest + std::log(sum), slope / sum};
}

// Newton's method from the right on a convex growing function never crosses the root; a place that rounding
// puts a little beside it still bounds a true interval of losses, displaced by that little.
double mixture_place(const std::vector<double>& shifts, const std::vector<double>& weights, double sigma,
                     double loss) {
  if (std::isinf(loss)) return loss;
  double z = kInfinity, still = 0;
  for (size_t i = 0; i < shifts.size(); ++i) {
    if (shifts[i] == 0) still += weights[i];
    if (shifts[i] > 0)
      z = std::min(z, (loss - std::log(weights[i])) * sigma * sigma / shifts[i] + shifts[i] / 2);
  }
  if (loss <= std::log(still)) return -kInfinity;
  for (int i = 0; i < 200; ++i) {
    const auto [value, slope] = mixture_loss(shifts, weights, sigma, z);
    const double step = (value - loss) / slope;
    if (!(step > 1e-15 * (1 + std::abs(z)))) break;
    z -= step;
  }
  return z;
}

}  // namespace

LossPair LossPair::sampled_gaussian(double rate, double sigma) {
  DPFA_CHECK(rate > 0 && rate <= 1 && sigma > 0, "rate ", rate, ", sigma ", sigma);
  LossPair pair;
  const double variance = sigma * sigma;
  pair.parts_.push_back({1, Noise::kGaussian, sigma, {{0, 1, -rate}, {1, 0, rate}}, [=](double loss) {
                           return variance * unsampled_loss(loss, rate) + 0.5;
                         }});
  pair.min_loss_ = std::log1p(-rate);
  pair.max_loss_ = kInfinity;
  pair.symmetric_ = rate == 1;
  return pair;
}

LossPair LossPair::replaced_gaussian(double rate, double sigma) {
  DPFA_CHECK(rate > 0 && rate <= 1 && sigma > 0, "rate ", rate, ", sigma ", sigma);
  LossPair pair;
  const double variance = sigma * sigma;
  // P / Q = e^l where sinh(z / s^2 - l / 2) = (1 - q) / q e^(1 / (2 s^2)) sinh(l / 2).
  const double log_ratio = std::log1p(-rate) - std::log(rate) + 1 / (2 * variance);
  auto place = [=](double loss) {
    if (std::isinf(loss)) return loss;
    if (loss == 0) return 0.0;
    const double half = std::abs(loss) / 2;
    const double log_sinh = half + std::log(-std::expm1(-2 * half)) - M_LN2 + log_ratio;
    const double size = log_sinh > 40 ? log_sinh + M_LN2 : std::asinh(std::exp(log_sinh));
    return variance * (std::copysign(size, loss) + loss / 2);
  };
  pair.parts_.push_back(
      {1, Noise::kGaussian, sigma, {{0, 1 - rate, 0}, {1, 0, rate}, {-1, rate, -rate}}, place});
  pair.min_loss_ = -kInfinity;
  pair.max_loss_ = kInfinity;
  pair.symmetric_ = true;
  return pair;
}

LossPair LossPair::gaussian_mixture(const std::vector<double>& shifts,
                                    const std::vector<double>& probabilities, double sigma) {
  DPFA_CHECK(shifts.size() == probabilities.size() && sigma > 0);
  std::vector<double> kept, weights;
  double moved = 0, still = 0;
  for (size_t i = 0; i < shifts.size(); ++i) {
    DPFA_CHECK(shifts[i] >= 0 && probabilities[i] >= 0, "shift ", shifts[i], ", weight ", probabilities[i]);
    if (probabilities[i] == 0) continue;
    kept.push_back(shifts[i]);
    weights.push_back(probabilities[i]);
    (shifts[i] > 0 ? moved : still) += probabilities[i];
  }
  DPFA_CHECK(std::abs(moved + still - 1) < 1e-9, "the probabilities sum to ", moved + still);
  if (moved == 0) return finite({1}, {1});
  LossPair pair;
  Part part{1, Noise::kGaussian, sigma, {{0, 1, -moved}}, {}};
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] > 0) part.components.push_back({kept[i], 0, weights[i]});
  }
  part.place = [=](double loss) { return mixture_place(kept, weights, sigma, loss); };
  pair.parts_.push_back(std::move(part));
  pair.min_loss_ = std::log(still);
  pair.max_loss_ = kInfinity;
  return pair;
}

LossPair LossPair::sampled_laplace(double rate, double b) {
  DPFA_CHECK(rate > 0 && rate <= 1 && b > 0, "rate ", rate, ", scale ", b);
  LossPair pair;
  // The unsampled loss is (2 z - 1) / b between the means and constant outside them.
  auto place = [=](double loss) {
    const double unsampled = unsampled_loss(loss, rate);
    if (unsampled < -1 / b) return -kInfinity;
    if (unsampled >= 1 / b) return kInfinity;
    return (unsampled * b + 1) / 2;
  };
  pair.parts_.push_back({1, Noise::kLaplace, b, {{0, 1, -rate}, {1, 0, rate}}, place});
  pair.min_loss_ = std::log1p(rate * std::expm1(-1 / b));
  pair.max_loss_ = 1 / b > 40 ? 1 / b + std::log(rate + (1 - rate) * std::exp(-1 / b))
                              : std::log1p(rate * std::expm1(1 / b));
  pair.symmetric_ = rate == 1;
  return pair;
}

LossPair LossPair::finite(const std::vector<double>& p, const std::vector<double>& q) {
  DPFA_CHECK(p.size() == q.size());
  LossPair pair;
  pair.min_loss_ = kInfinity;
  pair.max_loss_ = -kInfinity;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0 && q[i] > 0) {
      const double loss = std::log(p[i] / q[i]);
      pair.atoms_.push_back({loss, p[i], q[i]});
      pair.min_loss_ = std::min(pair.min_loss_, loss);
      pair.max_loss_ = std::max(pair.max_loss_, loss);
    } else {
      pair.p_only_ += p[i];
      pair.q_only_ += q[i];
    }
  }
  return pair;
}

LossPair LossPair::sampled_finite(const std::vector<double>& p, const std::vector<double>& q, double rate) {
  std::vector<double> mixed(p.size());
  for (size_t i = 0; i < p.size(); ++i) mixed[i] = (1 - rate) * q[i] + rate * p[i];
  LossPair pair = finite(mixed, q);
  size_t atom = 0;
  // The loss of a small rate is far more precise than the quotient of the two mixed probabilities.
  for (size_t i = 0; i < p.size(); ++i) {
    if (mixed[i] > 0 && q[i] > 0) pair.atoms_[atom++].loss = std::log1p(rate * (p[i] / q[i] - 1));
  }
  return pair;
}

LossPair LossPair::approximate_dp(double epsilon, double delta) {
  const double high = (1 - delta) / (1 + std::exp(-epsilon)), low = (1 - delta) / (1 + std::exp(epsilon));
  LossPair pair = finite({delta, high, low, 0}, {0, low, high, delta});
  pair.symmetric_ = true;
  return pair;
}

LossPair LossPair::mixture(const std::vector<std::pair<double, LossPair>>& parts) {
  LossPair pair;
  pair.min_loss_ = kInfinity;
  pair.max_loss_ = -kInfinity;
  pair.symmetric_ = true;
  for (const auto& [weight, one] : parts) {
    if (weight == 0) continue;
    for (Part part : one.parts_) {
      part.weight *= weight;
      pair.parts_.push_back(std::move(part));
    }
    for (const Atom& atom : one.atoms_) pair.atoms_.push_back({atom.loss, weight * atom.p, weight * atom.q});
    pair.p_only_ += weight * one.p_only_;
    pair.q_only_ += weight * one.q_only_;
    pair.min_loss_ = std::min(pair.min_loss_, one.min_loss_);
    pair.max_loss_ = std::max(pair.max_loss_, one.max_loss_);
    pair.symmetric_ = pair.symmetric_ && one.symmetric_;
  }
  return pair;
}

LossPair LossPair::swapped() const {
  LossPair pair = *this;
  // The mirrored noise has a loss that grows with the place again.
  for (Part& part : pair.parts_) {
    for (Component& c : part.components) c = {-c.mean, c.q + c.excess, -c.excess};
    part.place = [place = part.place](double loss) { return -place(-loss); };
  }
  for (Atom& atom : pair.atoms_) atom = {-atom.loss, atom.q, atom.p};
  std::swap(pair.p_only_, pair.q_only_);
  pair.min_loss_ = -max_loss_;
  pair.max_loss_ = -min_loss_;
  return pair;
}

void LossPair::add_part_cells(const Part& part, std::span<const double> edges,
                              std::span<const double> references, std::vector<LossCell>& cells) const {
  std::vector<Tail> before(part.components.size()), here(part.components.size());
  for (size_t edge = 0; edge < edges.size(); ++edge) {
    const double place = part.place(edges[edge]);
    for (size_t c = 0; c < here.size(); ++c) {
      const double x = (place - part.components[c].mean) / part.scale;
      here[c] = part.noise == Noise::kGaussian ? gaussian_tail(x) : laplace_tail(x);
    }
    if (edge > 0) {
      LossCell& cell = cells[edge - 1];
      const double growth = std::expm1(references[edge - 1]);
      double q = 0, excess = 0, p_error = 0, rise_error = 0;
      for (size_t c = 0; c < here.size(); ++c) {
        const Component& component = part.components[c];
        const double mass = between(before[c], here[c]);
        const double rounding = before[c].error + here[c].error + 8 * kUnit * std::abs(mass) + kUnderflow;
        q += component.q * mass;
        excess += component.excess * mass;
        p_error += std::abs(component.q + component.excess) * rounding;
        rise_error += (std::abs(component.excess) + component.q * std::abs(growth)) * rounding;
      }
      cell.p += part.weight * std::max(0.0, q + excess);
      cell.rise += part.weight * (excess - growth * q);
      cell.p_error += part.weight * p_error;
      cell.rise_error += part.weight * rise_error;
    }
    std::swap(before, here);
  }
}

void LossPair::add_atom_cells(std::span<const double> edges, std::span<const double> references,
                              std::vector<LossCell>& cells) const {
  for (const Atom& atom : atoms_) {
    const auto above = std::lower_bound(edges.begin(), edges.end(), atom.loss);  // first edge >= loss
    if (above == edges.begin() || above == edges.end()) continue;
    const size_t index = static_cast<size_t>(above - edges.begin()) - 1;
    cells[index].p += atom.p;
    cells[index].rise += atom.p * -std::expm1(references[index] - atom.loss);
    cells[index].p_error += atom.p * 8 * kUnit;
    cells[index].rise_error += atom.p * (12 + 4 * std::abs(atom.loss)) * kUnit;
  }
}

std::vector<LossCell> LossPair::cells(std::span<const double> edges,
                                      std::span<const double> references) const {
  DPFA_CHECK(edges.size() >= 2 && references.size() + 1 == edges.size());
  std::vector<LossCell> cells(references.size());
  for (const Part& part : parts_) add_part_cells(part, edges, references, cells);
  add_atom_cells(edges, references, cells);
  return cells;
}

}  // namespace dpfa::accounting
