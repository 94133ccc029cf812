#include "accounting/pld/spectrum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <limits>
#include <map>
#include <numbers>

#include <kissfft/kissfft.hh>

#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

using Complex = std::complex<double>;

constexpr double kUnit = std::numeric_limits<double>::epsilon() / 2;

constexpr double kVanished = 1e-30;

const kissfft<double>& transform_of(size_t size) {
  static thread_local std::map<size_t, kissfft<double>> transforms;
  return transforms.try_emplace(size, size, false).first->second;
}

// Relative error, in the 2-norm, of one transform whose size is a power of two; and of each of its outputs
// relative to the sum of the absolute inputs. As Higham (Accuracy and Stability of Numerical Algorithms,
// 2nd edition, theorem 24.2) for stages of radix 4 (the last one possibly 2): a stage is a diagonal of roots
// of unity and two levels of sums, each an orthogonal matrix times a power of sqrt 2. Products of complex
// numbers are good to sqrt(5) u (Brent, Percival and Zimmermann 2007), sums to u; the roots are computed as
// exp(i x) where x < 2 pi has a relative error of 1.4 u, so they are good to 9 u + 2 u.
double transform_error(size_t size) {
  const double stages = std::ceil(std::bit_width(size - 1) / 2.0);
  return stages * (11 + 2.3 + 2) * kUnit * 1.01;
}

template <typename Number>
Number power(Number base, int64_t exponent) {
  Number result(1);
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    if (exponent > 1) base *= base;
  }
  return result;
}

// An upper bound on log E[e^(t (loss - centre))] of a law, t of any sign, by Horner's rule.
double log_moment(const GridLaw& law, double t, double centre) {
  const int64_t size = static_cast<int64_t>(law.mass.size());
  const int64_t middle =
      std::clamp<int64_t>(std::llround((centre - law.shift) / law.step) - law.first, 0, size - 1);
  const double ratio = std::exp(t * law.step);
  double above = 0, below = 0;
  for (int64_t i = size - 1; i >= middle; --i) above = above * ratio + law.mass[static_cast<size_t>(i)];
  for (int64_t i = 0; i < middle; ++i) below = below / ratio + law.mass[static_cast<size_t>(i)];
  const double sum = above + below / ratio;
  const double shift = t * (law.loss(static_cast<size_t>(middle)) - centre);
  return std::log(sum) + shift + 8 * static_cast<double>(size) * kUnit + 4 * kUnit * std::abs(shift);
}

struct Window {
  int64_t first, last;
  size_t size() const { return static_cast<size_t>(last - first) + 1; }
};

// Outside of it, base^count x rest^rest_count has at most `tail` of its mass.
struct Factor {
  const GridLaw* law;
  double count;
};

// Outside of it, the product of the factors has at most `tail` of its mass. Indices from the sum of all
// shifts.
Window window_of(const std::vector<Factor>& factors, double tail) {
  double middle = 0, variance = 0, lowest = 0, highest = 0;
  std::vector<double> centres;
  for (const auto& [law, count] : factors) {
    centres.push_back(law->mean());
    middle += count * (centres.back() - law->shift);
    variance += count * std::pow(law->deviation(), 2);
    lowest += count * static_cast<double>(law->first);
    highest += count * (static_cast<double>(law->first) + static_cast<double>(law->mass.size()) - 1);
  }
  // No sum leaves the sum of the ranges.
  Window window{static_cast<int64_t>(lowest), static_cast<int64_t>(highest)};
  if (variance == 0) return window;
  const double step = factors.front().law->step, need = std::log(2 / tail);
  for (double sign : {-1.0, 1.0}) {
    const auto reach = [&](double t) {
      double exponent = need;
      for (size_t i = 0; i < factors.size(); ++i)
        exponent += factors[i].count * log_moment(*factors[i].law, sign * t, centres[i]);
      return std::isnan(exponent) ? std::numeric_limits<double>::infinity() : exponent / t;
    };
    // The best t of a normal law, and smaller ones for heavier tails.
    double t = std::sqrt(2 * need / variance), best = reach(t);
    for (int i = 0; i < 30; ++i) {
      const double next = reach(t / 2);
      if (std::isfinite(best) && next >= best) break;
      best = next;
      t /= 2;
    }
    best = std::min({best, reach(1.4 * t), reach(t / 1.4)});
    if (!std::isfinite(best)) continue;
    const double edge = std::clamp((middle + sign * best) / step, -9e17, 9e17);
    if (sign > 0) window.last = std::min(window.last, static_cast<int64_t>(std::ceil(edge)) + 1);
    if (sign < 0) window.first = std::max(window.first, static_cast<int64_t>(std::floor(edge)) - 1);
  }
  return window;
}

size_t folded(int64_t index, size_t size) { return static_cast<size_t>(index) & (size - 1); }

void add_folded(const GridLaw& law, Complex factor, std::vector<Complex>& values) {
  for (size_t i = 0; i < law.mass.size(); ++i)
    values[folded(law.first + static_cast<int64_t>(i), values.size())] += law.mass[i] * factor;
}

// What is left of the window after the inverse transform; negative masses are rounding, and 0 is nearer.
LawProduct read_window(const std::vector<Complex>& values, bool imaginary, const Window& window, double step,
                       double shift) {
  const double scale = 1 / static_cast<double>(values.size());
  LawProduct product{{step, shift, window.first, std::vector<double>(window.size())}};
  double sum = 0;
  for (size_t i = 0; i < window.size(); ++i) {
    const Complex& value = values[folded(window.first + static_cast<int64_t>(i), values.size())];
    sum += product.law.mass[i] = std::max(0.0, (imaginary ? -value.imag() : value.real()) * scale);
  }
  DPFA_CHECK(sum > 0.5, "the product of laws lost its mass: ", sum);
  for (double& mass : product.law.mass) mass /= sum;
  product.log_sum = std::log(sum);
  return product;
}

// Sums of squares over all frequencies from which the error follows.
struct Spectra {
  double power_change = 0, power_size = 0, rest_change = 0, rest_size = 0;
};

// In: transform of base + i rest. Out: conjugate of (spectrum of base^count) + i (spectrum of the other
// product), so that a forward transform inverts it.
Spectra multiply_spectra(std::vector<Complex>& values, int64_t count, int64_t rest_count, double unit) {
  const size_t size = values.size();
  Spectra sums;
  for (size_t k = 0; k <= size / 2; ++k) {
    const size_t mirror = (size - k) & (size - 1);
    const Complex a = values[k], b = std::conj(values[mirror]);
    const Complex base = 0.5 * (a + b), rest = Complex(0, -0.5) * (a - b);
    const Complex powered = power(base, count);
    const Complex rest_powered = power(base, rest_count), product = rest_powered * rest;
    const double weight = k == mirror ? 1 : 2;
    const double size_base = std::abs(base) + unit, size_rest = std::abs(rest) + unit;
    if (count > 0) {
      const double change = static_cast<double>(count) * power(size_base, count - 1);
      sums.power_change += weight * change * change;
      sums.power_size += weight * std::norm(powered);
    }
    const double one_less = rest_count > 0 ? power(size_base, rest_count - 1) : 0;
    const double change =
        static_cast<double>(rest_count) * one_less * size_rest + (rest_count > 0 ? one_less * size_base : 1);
    sums.rest_change += weight * change * change;
    sums.rest_size += weight * std::norm(product);
    values[k] = std::conj(powered + Complex(0, 1) * product);
    if (k != mirror) values[mirror] = std::conj(std::conj(powered) + Complex(0, 1) * std::conj(product));
  }
  return sums;
}

}  // namespace

LawProducts multiply(GridLaw base, GridLaw rest, int64_t count, int64_t rest_count, double tail, double tilt,
                     Side side, size_t most_points, Coarsened* coarsened) {
  DPFA_CHECK(base.step == rest.step && rest_count >= 0 && count >= 0);
  Window power_window{0, 0}, rest_window{0, 0};
  for (;;) {
    if (count > 0) power_window = window_of({{&base, static_cast<double>(count)}}, tail);
    rest_window = window_of({{&base, static_cast<double>(rest_count)}, {&rest, 1}}, tail);
    if (std::max(power_window.size(), rest_window.size()) <= most_points) break;
    coarsened->base += coarsen(base, 2, tilt, side);
    coarsened->rest += coarsen(rest, 2, tilt, side);
  }
  const size_t size = std::bit_ceil(std::max({power_window.size(), rest_window.size(), size_t{4}}));
  std::vector<Complex> values(size), spectrum(size);
  add_folded(base, Complex(1), values);
  add_folded(rest, Complex(0, 1), values);
  transform_of(size).transform(values.data(), spectrum.data());
  // Each frequency of either law is wrong by at most `unit`: two laws of sum 1, and folding and unpacking.
  const double once = transform_error(size), unit = 2.01 * once + 16 * kUnit;
  const Spectra sums = multiply_spectra(spectrum, count, rest_count, unit);
  transform_of(size).transform(spectrum.data(), values.data());

  // Sums over losses are at most sqrt(size) times the 2-norm, and the inverse transform divides 2-norms by
  // sqrt(size): so 2-norms of spectra bound sums of masses. Both products share the inverse transform.
  const double inverse = once * std::sqrt(sums.power_size + sums.rest_size);
  const auto error = [&](double change, double norm, double products) {
    const double rounding = unit * std::sqrt(change) + 4 * products * kUnit * std::sqrt(norm) + inverse;
    return DPFA_PLANT("pld_untilted_without_allowance") ? 0 : 1.01 * (rounding + 2 * tail);
  };
  LawProducts result;
  if (count > 0) {
    result.power =
        read_window(values, false, power_window, base.step, static_cast<double>(count) * base.shift);
    result.power.error = error(sums.power_change, sums.power_size, static_cast<double>(count)) /
                         std::exp(result.power.log_sum);
  }
  result.rest = read_window(values, true, rest_window, base.step,
                            static_cast<double>(rest_count) * base.shift + rest.shift);
  result.rest.error = error(sums.rest_change, sums.rest_size, static_cast<double>(rest_count + 1)) /
                      std::exp(result.rest.log_sum);
  return result;
}

LawProduct multiply_all(const std::vector<LawGroup>& groups, double tail) {
  std::vector<Factor> factors;
  double shift = 0;
  for (const LawGroup& group : groups) {
    factors.push_back({&group.law, static_cast<double>(group.count)});
    shift += static_cast<double>(group.count) * group.law.shift;
  }
  const Window window = window_of(factors, tail);
  const size_t size = std::bit_ceil(std::max(window.size(), size_t{4}));
  const double once = transform_error(size), unit = 2.01 * once + 16 * kUnit;
  std::vector<Complex> product(size / 2 + 1, Complex(1)), values(size), spectrum(size);
  std::vector<double> change(size / 2 + 1, 0.0);  // bound on the error of `product`
  double products = 0;
  for (size_t i = 0; i < groups.size(); i += 2) {
    // Two laws share a transform.
    const LawGroup* pair[] = {&groups[i], i + 1 < groups.size() ? &groups[i + 1] : nullptr};
    std::fill(values.begin(), values.end(), Complex(0));
    for (int j = 0; j < 2; ++j) {
      if (pair[j] == nullptr) continue;
      add_folded(pair[j]->law, j == 0 ? Complex(1) : Complex(0, 1), values);
      products += static_cast<double>(pair[j]->count);
    }
    transform_of(size).transform(values.data(), spectrum.data());
    for (size_t k = 0; k <= size / 2; ++k) {
      const double frequency = 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(size);
      const Complex a = spectrum[k], b = std::conj(spectrum[(size - k) & (size - 1)]);
      const auto take = [&](const Complex& one, const LawGroup& group) {
        // Laws have sum 1, so what is nearly 0 stays so.
        if (std::abs(product[k]) + change[k] < kVanished) {
          change[k] = kVanished;
          product[k] = 0;
          return;
        }
        const double length = std::abs(one), bound = length + unit, less = power(bound, group.count - 1);
        const double wrong =
            static_cast<double>(group.count) * unit * less + group.change(frequency, length, unit);
        change[k] = change[k] * (less * bound + wrong) + std::abs(product[k]) * wrong;
        product[k] *= power(one, group.count);
      };
      take(0.5 * (a + b), *pair[0]);
      if (pair[1] != nullptr) take(Complex(0, -0.5) * (a - b), *pair[1]);
    }
  }
  double change_sum = 0, size_sum = 0;
  for (size_t k = 0; k <= size / 2; ++k) {
    const double weight = k == 0 || k == size / 2 ? 1 : 2;
    change_sum += weight * change[k] * change[k];
    size_sum += weight * std::norm(product[k]);
    spectrum[k] = std::conj(product[k]);
    spectrum[(size - k) & (size - 1)] = product[k];
  }
  transform_of(size).transform(spectrum.data(), values.data());
  LawProduct result = read_window(values, false, window, groups.front().law.step, shift);
  result.error = 1.01 *
                 (std::sqrt(change_sum) + (4 * products * kUnit + once) * std::sqrt(size_sum) + 2 * tail) /
                 std::exp(result.log_sum);
  if (DPFA_PLANT("pld_untilted_without_allowance")) result.error = 0;
  return result;
}

}  // namespace dpfa::accounting
