// A distinguishing audit of masked sums between the processes of an mpirun: a record that the adversary knows
// is in or out of 1e5 sums at once (each a block of lanes), and what the best threshold tells must stay
// within the (epsilon, delta) that is claimed. Noise that is left out and a pad that serves twice must show.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/noise_shares.h"
#include "comm/secagg/secure_sum.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/rank_contribution.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/wiretap.h"

namespace dpfa::privacy {
namespace {

using testing::world;

constexpr int kTrials = 100'000, kDimension = 2, kShift = 5;
constexpr double kUnit = 1 << kShift, kMultiplier = 1.2;
constexpr std::array<int64_t, kDimension> kCanary = {1520, -968};  // 47.5 and -30.25 lane units

double canary_norm() { return std::hypot(kCanary[0], kCanary[1]) / kUnit; }

// q = 1 and no colluders: outsiders know none of the noise.
accounting::NoiseSharesEvent claimed() {
  return {1,
          kMultiplier * canary_norm() / std::sqrt(world().size()),
          world().size(),
          0,
          canary_norm(),
          kDimension,
          kDimension};
}

// What this rank sends, and what all receive, in one masked sum.
struct Seen {
  std::vector<uint32_t> sent;
  std::vector<int32_t> sum;
};

// Collective. The canary is rank 0's; ranks from `first_silent` on leave out their noise.
Seen observed(uint64_t draw, int64_t step, bool canary_is_there, int first_silent) {
  const int rank = world().rank();
  Seen seen;
  testing::Wiretap wire([&](int number, std::span<std::byte> bytes) {
    if (number == 0) seen.sent = testing::words_of({bytes.begin(), bytes.end()});
  });
  const RootKey root = RootKey::from_insecure_seed(10 + static_cast<uint64_t>(rank));
  const RankContribution contribution({kShift, 1 << 20, claimed().share_sigma}, root.stream(Purpose::kNoise),
                                      root.stream(Purpose::kDither));
  std::vector<int64_t> own(kTrials * kDimension);
  for (size_t i = 0; i < own.size(); ++i)
    own[i] = rank * 1000 + 77 + (rank == 0 && canary_is_there ? kCanary[i % kDimension] : 0);
  seen.sum.resize(own.size());
  comm::secagg::SecureSum sum(wire, 32, testing::fixed_session(rank, world().size(), /*colluders=*/1));
  sum.sum(step, 0, seen.sum, [&](int64_t first, std::span<int32_t> part) {
    const auto values = std::span(own).subspan(static_cast<size_t>(first), part.size());
    if (rank < first_silent) return contribution.make(draw, static_cast<uint64_t>(first), values, part);
    for (size_t i = 0; i < part.size(); ++i) part[i] = static_cast<int32_t>(values[i] >> kShift);
  });
  return seen;
}

Seen observed(uint64_t draw, int64_t step, bool canary_is_there) {
  return observed(draw, step, canary_is_there, /*first_silent=*/world().size());
}

// Of every trial the part along the canary.
template <typename Lane>
std::vector<double> along_canary(const std::vector<Lane>& lanes) {
  std::vector<double> result(kTrials);
  for (size_t i = 0; i < lanes.size(); ++i)
    result[i / kDimension] +=
        static_cast<double>(lanes[i]) * static_cast<double>(kCanary[i % kDimension]) / kUnit / canary_norm();
  return result;
}

// 5.2 standard deviations of the binomial: false alarm 1e-7 for each of about 700 comparisons.
double excess_over_claim(const std::vector<double>& in, const std::vector<double>& out) {
  const auto share_above = [](const std::vector<double>& values, double threshold, double side) {
    const auto above = std::count_if(values.begin(), values.end(), [=](double v) { return v > threshold; });
    const double p = static_cast<double>(above) / kTrials;
    return std::clamp(p + side * (5.2 * std::sqrt(p * (1 - p) / kTrials) + 14.0 / kTrials), 0.0, 1.0);
  };
  const auto [least, most] = std::minmax_element(in.begin(), in.end());
  double excess = -1;
  for (const double epsilon : {0.0, 0.3, 0.7, 1.2}) {
    const double growth = std::exp(epsilon), delta = accounting::delta_of(claimed(), 1, epsilon);
    for (int place = 0; place <= 80; ++place) {
      const double threshold = *least + (*most - *least) * place / 80;
      excess = std::max(
          {excess, share_above(in, threshold, -1) - growth * share_above(out, threshold, 1) - delta,
           1 - share_above(out, threshold, 1) - growth * (1 - share_above(in, threshold, -1)) - delta});
    }
  }
  return excess;
}

TEST(MaskedAudit, NoThresholdOnASumRefutesTheClaimToTheNetwork) {
  const std::vector<double> in = along_canary(observed(1, 1, true).sum),
                            out = along_canary(observed(2, 2, false).sum);
  if (world().rank() != 0) return;  // all have the same sum
  const double excess = excess_over_claim(in, out);
  EXPECT_LE(excess, 0);
  EXPECT_GT(excess, -0.2) << "the audit must be able to see something";
}

TEST(MaskedAudit, NoiseThatHalfOfTheRanksLeaveOutIsCaught) {
  const int half = world().size() / 2;
  const std::vector<double> in = along_canary(observed(1, 1, true, half).sum),
                            out = along_canary(observed(2, 2, false, half).sum);
  if (world().rank() == 0) {
    EXPECT_GT(excess_over_claim(in, out), 0.05);
  }
}

// Two steps of one rank under one pad: their difference is that of its contributions, with its own noise
// alone.
std::vector<int32_t> difference(const Seen& one, const Seen& other) {
  std::vector<int32_t> result(one.sent.size());
  for (size_t i = 0; i < result.size(); ++i) result[i] = static_cast<int32_t>(one.sent[i] - other.sent[i]);
  return result;
}

TEST(MaskedAudit, APadThatServesTwiceIsCaughtAndFreshPadsTellNothing) {
  for (const bool reused : {true, false}) {
    const auto views = [&](bool canary_is_there, uint64_t draw) {
      return along_canary(
          difference(observed(draw, 7, canary_is_there), observed(draw + 1, reused ? 7 : 8, false)));
    };
    const std::vector<double> in = views(true, 3), out = views(false, 5);
    if (world().rank() != 0) continue;  // the canary is rank 0's
    const double excess = excess_over_claim(in, out);
    if (reused) {
      EXPECT_GT(excess, 0.1);
    } else {
      EXPECT_LE(excess, 0);
    }
  }
}

}  // namespace
}  // namespace dpfa::privacy
