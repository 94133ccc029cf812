// Upper and lower bounds of epsilon and delta for many releases, from their privacy loss distributions.
//
// Each direction of the relation is composed by itself: P against Q, and Q against P where that differs; a
// bound is the worse of the two (of the two lower bounds the larger one). The schedule is fixed in advance.
//
// The laws are tilted by e^(tilt loss), so that all errors are relative to the tail that is asked for. What
// rounding, windows and truncation can change is added up as a sum of tilted masses E: it changes
// delta(epsilon) by at most E e^(log mass - tilt epsilon) max_x (1 - e^-x) e^(-tilt x), is added to upper
// bounds and taken from lower ones. Long compositions go through powers of up to 64, each on a coarser grid
// (Ghazi, Kamath, Kumar and Manurangsi 2022), so time and memory grow with the logarithm of the count.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "accounting/pld/grid_law.h"
#include "accounting/pld/loss_pair.h"

namespace dpfa::accounting {

struct PairCount {
  LossPair pair;
  int64_t count;  // >= 0
};

// `count` releases that are much alike. For an upper bound each of them is dominated by one of the nodes,
// drawn publicly, for a lower one it dominates the node drawn; the probabilities of a node, summed over all
// releases, are its weight, so weights sum to `count`.
struct PairGroup {
  std::vector<std::pair<LossPair, double>> nodes;
  int64_t count;  // > 0
};

struct LossPairs {
  std::vector<PairCount> pairs;
  std::vector<PairGroup> groups;
};

// Which of the two directions a bound is about: both, or P against Q alone, or Q against P alone.
enum class Ways { kBoth, kGiven, kSwapped };

// Smallest epsilon >= 0 found with delta(epsilon) <= delta; infinity where none was: losses beyond 600, a
// delta below the infinite mass, too large errors. delta in [0, 1).
double loss_epsilon_upper(std::span<const PairCount> pairs, double delta, Ways ways = Ways::kBoth);
double loss_epsilon_upper(const LossPairs& pairs, double delta);
// An epsilon >= 0 with delta(epsilon) > delta, so every valid epsilon is larger; 0 where none was found.
double loss_epsilon_lower(std::span<const PairCount> pairs, double delta, Ways ways = Ways::kBoth);
double loss_epsilon_lower(const LossPairs& pairs, double delta);
// log of bounds of delta(epsilon) for any real epsilon; -infinity for a lower bound of 0.
double loss_log_delta_upper(std::span<const PairCount> pairs, double epsilon, Ways ways = Ways::kBoth);
double loss_log_delta_upper(const LossPairs& pairs, double epsilon);
double loss_log_delta_lower(std::span<const PairCount> pairs, double epsilon, Ways ways = Ways::kBoth);
// Bounds of the largest true-positive rate of any test with false-positive rate `fpr` in [0, 1], in the
// better direction for the tester: the smallest delta(epsilon) + e^epsilon fpr over all epsilon (Kairouz, Oh
// and Viswanath 2015).
double loss_power_upper(std::span<const PairCount> pairs, double fpr, Ways ways = Ways::kBoth);
double loss_power_upper(const LossPairs& pairs, double fpr);
double loss_power_lower(std::span<const PairCount> pairs, double fpr, Ways ways = Ways::kBoth);

// For comparison with other implementations: the upper epsilon of every pair on the grid of `step` (a power
// of two is not asked for), by connecting the dots or by rounding each loss up.
enum class GridRule { kConnectDots, kRoundUp };
double loss_epsilon_on_grid(std::span<const PairCount> pairs, double delta, double step, GridRule rule,
                            Ways ways = Ways::kBoth);

}  // namespace dpfa::accounting
