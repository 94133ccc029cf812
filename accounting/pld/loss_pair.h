// A pair of output laws (P, Q) of one release as masses of its privacy loss log(P / Q).
//
// P is the law on one dataset, Q on its neighbour. `swapped` exchanges them, so the pair and its swap are the
// two directions of a relation; a composition is bounded in each direction by itself. Whoever makes a pair
// vouches that it dominates the mechanism (Zhu, Dong and Wang 2022, definition 7): then so does its
// composition.
#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

namespace dpfa::accounting {

// Masses of the losses in one interval (from, to], seen from a reference loss r.
struct LossCell {
  double p = 0;                        // mass under P
  double rise = 0;                     // P - e^r Q, without cancellation where P and Q differ little
  double p_error = 0, rise_error = 0;  // bounds on their rounding
};

class LossPair {
 public:
  // With the record N(1, sigma^2) with probability `rate`, else N(0, sigma^2); without it N(0, sigma^2).
  // Rate 1 is the plain Gaussian. sigma > 0, 0 < rate <= 1.
  static LossPair sampled_gaussian(double rate, double sigma);
  // The record replaced: N(1, s^2) against N(-1, s^2), each with probability `rate`, else N(0, s^2).
  static LossPair replaced_gaussian(double rate, double sigma);
  // N(shifts[i], sigma^2) with probabilities[i] (sum 1) against N(0, sigma^2): several contributions of one
  // sample, each drawn by itself. Shifts >= 0.
  static LossPair gaussian_mixture(const std::vector<double>& shifts,
                                   const std::vector<double>& probabilities, double sigma);
  // As sampled_gaussian with Laplace noise of scale b.
  static LossPair sampled_laplace(double rate, double b);
  // Probabilities value by value; a sum below 1 loses mass under P or Q and is no pair, so both must sum to
  // 1.
  static LossPair finite(const std::vector<double>& p, const std::vector<double>& q);
  // (1 - rate) q + rate p against q.
  static LossPair sampled_finite(const std::vector<double>& p, const std::vector<double>& q, double rate);
  // Dominates every (epsilon, delta)-DP release (Kairouz, Oh and Viswanath 2015).
  static LossPair approximate_dp(double epsilon, double delta);
  // One of the pairs, drawn publicly with these weights (sum 1).
  static LossPair mixture(const std::vector<std::pair<double, LossPair>>& parts);

  LossPair swapped() const;
  bool is_symmetric() const { return symmetric_; }
  double min_loss() const { return min_loss_; }  // of the finite losses; may be infinite
  double max_loss() const { return max_loss_; }
  double infinite() const { return p_only_; }  // mass of P where Q is 0

  // Cell i holds the losses in (edges[i], edges[i + 1]] seen from references[i]; edges ascend, may start and
  // end with infinities. Finite losses only. Error bounds assume at most 8 units in the last place of erfc.
  std::vector<LossCell> cells(std::span<const double> edges, std::span<const double> references) const;

 private:
  enum class Noise { kGaussian, kLaplace };
  struct Component {
    double mean, q, excess;  // weights under Q, and under P minus under Q
  };
  // Continuous noise around a few means whose loss grows with the place.
  struct Part {
    double weight;
    Noise noise;
    double scale;
    std::vector<Component> components;
    std::function<double(double loss)> place;  // largest place with at most this loss; may be infinite
  };
  struct Atom {
    double loss, p, q;
  };

  void add_part_cells(const Part& part, std::span<const double> edges, std::span<const double> references,
                      std::vector<LossCell>& cells) const;
  void add_atom_cells(std::span<const double> edges, std::span<const double> references,
                      std::vector<LossCell>& cells) const;

  std::vector<Part> parts_;
  std::vector<Atom> atoms_;
  double p_only_ = 0, q_only_ = 0;
  double min_loss_, max_loss_;
  bool symmetric_ = false;
};

}  // namespace dpfa::accounting
