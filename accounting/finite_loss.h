// Privacy losses with finitely many values: exact composition of randomized response, pure and approximate
// DP, discrete Laplace.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace dpfa::accounting {

// The law under P of log P/Q, with the mass where Q is 0 at infinity. Losses closer than 1e-11 are one.
class FiniteLoss {
 public:
  FiniteLoss() = default;  // certainly 0: nothing was released
  // Probabilities of P and Q, value by value.
  FiniteLoss(const std::vector<double>& p, const std::vector<double>& q);
  // The pair that dominates every (epsilon, delta)-DP mechanism (Kairouz, Oh and Viswanath 2015).
  static FiniteLoss approximate_dp(double epsilon, double delta);

  FiniteLoss composed_with(const FiniteLoss& other) const;
  FiniteLoss repeated(int64_t count) const;

  double delta(double epsilon) const;
  double epsilon(double delta) const;  // smallest one >= 0
  // Largest true-positive rate of a test of Q against P at this false-positive rate (Neyman-Pearson).
  double power(double fpr) const;

 private:
  void add(double loss, double mass);

  struct Atom {
    double loss, mass;
  };
  std::map<int64_t, Atom> atoms_ = {{0, {0.0, 1.0}}};
  double infinite_ = 0;
};

}  // namespace dpfa::accounting
