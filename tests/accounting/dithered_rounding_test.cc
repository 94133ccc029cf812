// The mechanism of docs/dithered_rounding.md from its definition, all at once: every dither of every rank,
// the cut after the dither, draws of another record, the convolved shares; against the bound that is claimed.
// Sums and dithers are multiples of a quarter, so that all of them are enumerated.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "accounting/mechanism_rdp.h"
#include "accounting/noise_shares.h"

namespace dpfa::accounting {
namespace {

constexpr int kQuarters = 4, kReach = 90;
constexpr double kShare = 4;

using Point = std::vector<int>;  // per coordinate

// The law of the sum of `shares` discrete Gaussians on [-kReach, kReach].
std::vector<double> noise_law(int shares) {
  std::vector<double> one(2 * kReach + 1), law(2 * kReach + 1);
  double total = 0;
  for (int x = -kReach; x <= kReach; ++x) total += one[x + kReach] = std::exp(-x * x / (2 * kShare * kShare));
  for (double& p : one) p /= total;
  law = one;
  for (int k = 1; k < shares; ++k) {
    std::vector<double> next(law.size());
    for (int x = -kReach; x <= kReach; ++x)
      for (int y = std::max(-kReach, x - kReach); y <= std::min(kReach, x + kReach); ++y)
        next[x + kReach] += law[y + kReach] * one[x - y + kReach];
    law = next;
  }
  return law;
}

struct Case {
  int ranks, colluding;
  double rate;
  Point contribution;  // of the record, in quarters; it belongs to rank 0
  int clamp = 1000;
  bool dithered = true;
  Point other = {2, -1};  // of another record of rank 0, drawn with probability 1/2, in quarters or
                          // whole numbers as the sums are

  size_t dimension() const { return contribution.size(); }
  double length() const {
    double square = 0;
    for (const int quarters : contribution) square += quarters * quarters / 16.0;
    return std::sqrt(square);
  }
};

// floor(x + u), cut; x and u in quarters.
int lane(int x, int u, int clamp) {
  return std::clamp((x + u) >= 0 ? (x + u) / kQuarters : -((-(x + u) + kQuarters - 1) / kQuarters), -clamp,
                    clamp);
}

// Every state that the adversary of the proof is shown: dithers of rank 0 and of an honest rank beside it,
// and whether the other record was drawn.
struct State {
  Point without, with;  // the noiseless sum of the honest ranks
};

std::vector<State> states_of(const Case& c) {
  const size_t d = c.dimension();
  const bool second = c.ranks - c.colluding > 1;
  const int own = c.dithered ? kQuarters : 1, beside = c.dithered && second && d == 1 ? kQuarters : 1;
  int combinations = 1;
  for (size_t j = 0; j < d; ++j) combinations *= own;
  std::vector<State> states;
  for (int drawn = 0; drawn < 2; ++drawn)
    for (int combination = 0; combination < combinations; ++combination)
      for (int v = 0; v < beside; ++v) {
        State state;
        for (size_t j = 0, rest = static_cast<size_t>(combination); j < d;
             ++j, rest /= static_cast<size_t>(own)) {
          const int u = static_cast<int>(rest) % own, step = c.dithered ? 1 : kQuarters;
          const int sum = (j == 0 ? 3 : -2) * step + drawn * c.other[j] * step;
          const int rank_1 = second ? lane(-3 * step, v, c.clamp) : 0;
          state.without.push_back(lane(sum, u, c.clamp) + rank_1);
          state.with.push_back(lane(sum + c.contribution[j], u, c.clamp) + rank_1);
        }
        states.push_back(state);
      }
  return states;
}

// All outputs near the centres of one or two coordinates.
std::vector<Point> outputs(size_t dimension) {
  std::vector<Point> all;
  const int reach = dimension == 1 ? 70 : 55;
  for (int x = -reach; x <= reach; ++x) {
    if (dimension == 1) all.push_back({x});
    for (int y = -reach; y <= reach && dimension == 2; ++y) all.push_back({x, y});
  }
  return all;
}

struct Divergences {
  double shown, hidden;  // to an adversary who knows the state, and who does not
};

Divergences renyi(const Case& c, int order, bool removed) {
  const std::vector<double> noise = noise_law(c.ranks - c.colluding);
  const auto probability = [&](const Point& output, const Point& centre) {
    double p = 1;
    for (size_t j = 0; j < output.size(); ++j) {
      const int x = output[j] - centre[j];
      p *= std::abs(x) <= kReach ? noise[static_cast<size_t>(x + kReach)] : 0;
    }
    return p;
  };
  const std::vector<State> states = states_of(c);
  const double weight = 1.0 / static_cast<double>(states.size());
  const auto term = [&](double with, double without) {
    const double p = removed ? with : without, q = removed ? without : with;
    return q > 1e-60 ? q * std::pow(p / q, order) : 0;
  };
  double shown = 0, hidden = 0;
  for (const Point& output : outputs(c.dimension())) {
    double with_all = 0, without_all = 0;
    for (const State& state : states) {
      const double without = probability(output, state.without),
                   with = (1 - c.rate) * without + c.rate * probability(output, state.with);
      shown += weight * term(with, without);
      with_all += weight * with;
      without_all += weight * without;
    }
    hidden += term(with_all, without_all);
  }
  return {std::log(shown) / (order - 1), std::log(hidden) / (order - 1)};
}

NoiseSharesEvent claim(const Case& c) {
  const auto d = static_cast<int64_t>(c.dimension());
  return {c.rate, kShare, c.ranks, c.colluding, c.length(), c.dithered ? d : 0, d};
}

TEST(DitheredRounding, AWholeStepCostsAtMostTheClaimInBothDirectionsWhetherStatesAreShownOrNot) {
  std::vector<Case> cases;
  for (const double rate : {0.1, 0.5, 1.0})
    for (const auto& [ranks, colluding] : std::vector<std::pair<int, int>>{{1, 0}, {3, 1}, {3, 2}})
      for (const Point& contribution : std::vector<Point>{{1}, {6}, {-11}, {2, 2}, {5, -6}})
        for (const int clamp : {1000, 2}) cases.push_back({ranks, colluding, rate, contribution, clamp});
  for (const Case& c : cases)
    for (const int order : {2, 3})
      for (const bool removed : {true, false}) {
        const Divergences exact = renyi(c, order, removed);
        const double bound = noise_shares_rdp(claim(c), order);
        EXPECT_LE(exact.shown, bound * (1 + 1e-9))
            << c.ranks << c.colluding << " " << c.rate << " " << c.clamp;
        EXPECT_LE(exact.hidden, exact.shown * (1 + 1e-9) + 1e-15) << "hiding the state tells no more";
      }
}

TEST(DitheredRounding, WholeContributionsAreNotDitheredAndCostExactlyTheClaimUnlessTheyAreCut) {
  for (const double rate : {0.2, 1.0})
    for (const Point& contribution : std::vector<Point>{{8}, {-4, 12}})
      for (const int order : {2, 3}) {
        Case c{3, 1, rate, contribution, 1000, /*dithered=*/false};
        const double bound = noise_shares_rdp(claim(c), order);
        EXPECT_NEAR(renyi(c, order, true).shown / bound, 1, 1e-6);
        EXPECT_LE(renyi(c, order, false).shown, bound * (1 + 1e-9));
        c.clamp = 8;
        EXPECT_LT(renyi(c, order, true).shown, bound) << "the cut takes some of it";
      }
}

// The bound needs that a record leaves the other records on their ranks. Where it moves them, the sums of all
// N ranks are rounded anew: each adds an error of mean 0 and range 1, and
//   ln E exp(c |D|^2) <= c D'^2 / (1 - N c / 2) - d/2 ln(1 - N c / 2).
TEST(DitheredRounding, RecordsThatMoveBetweenRanksCostMoreThanTheClaim) {
  for (const int ranks : {2, 3}) {
    bool exceeds_the_claim = false;
    for (const int contribution : {0, 4, 5})
      for (const double c : {0.01, 0.1, 0.3})
        for (int moved = 0; moved < kQuarters; ++moved) {
          // Rank 0 gains what the ranks after it lose, and the record.
          std::vector<int> change(static_cast<size_t>(ranks), -moved);
          change[0] = contribution + moved * (ranks - 1);
          double moment = 0;
          const int combinations = ranks == 2 ? 16 : 64;
          for (int u = 0; u < combinations; ++u) {
            int difference = 0;
            for (int rank = 0, rest = u; rank < ranks; ++rank, rest /= kQuarters)
              difference += lane(change[static_cast<size_t>(rank)], rest % kQuarters, 1000);
            moment += std::exp(c * difference * difference) / combinations;
          }
          const double square = contribution * contribution / 16.0, left = 1 - ranks * c / 2;
          EXPECT_LE(std::log(moment), c * square / left - std::log(left) / 2 + 1e-12);
          exceeds_the_claim = exceeds_the_claim || std::log(moment) > dithered_log_moment(square, 1, c);
        }
    EXPECT_TRUE(exceeds_the_claim) << ranks;
  }
}

}  // namespace
}  // namespace dpfa::accounting
