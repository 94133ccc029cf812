// Poisson sampling: each record enters a step independently with probability sample_rate.
//
// Rank r owns the records i with i mod world_size == r and decides about them with its own key: together the
// ranks realise one Poisson draw over the whole dataset, with no communication. An empty draw is valid. The
// number of drawn records is private. The decision on record i at step t is a function of (key, t, i) alone,
// so where all ranks hold one key (--insecure-seed only) the union of the draws does not depend on
// world_size.
#pragma once

#include <cstdint>
#include <vector>

#include "src/base/stream_key.h"

namespace dpfa::data {

class PoissonSampler {
 public:
  // sample_rate in (0, 1]; it is realised as floor(sample_rate x 2^64) / 2^64, never above what is accounted.
  PoissonSampler(const StreamKey& key, double sample_rate, int rank, int world_size);
  // Indices of this rank's records drawn for draw number `draw`, increasing. Draw numbers never repeat under
  // one key.
  std::vector<int64_t> draw(int64_t draw, int64_t dataset_records) const;

 private:
  StreamKey key_;
  double sample_rate_;
  int rank_;
  int world_size_;
};

// A number of drawn records that `records` of them at sample_rate in [0, 1] exceed with probability below
// plan::kOverrun / ranks (Bernstein's inequality), at most `records`: what a step of one of `ranks` ranks is
// given room for, whatever it draws.
int64_t most_drawn(double sample_rate, int64_t records, int ranks);

// What a step of a rank has room for where its work must not depend on the data: for one record more than was
// declared, so that two data sets that differ by a record both fit. `each_has_its_own`: any rank may hold all
// of the records; otherwise each has its share.
struct StepRoom {
  int64_t records;  // of the folder; those behind them are not used
  int64_t passes;   // most_drawn of a rank's own
};
StepRoom room_of(double sample_rate, int64_t declared_records, int ranks, bool each_has_its_own);

}  // namespace dpfa::data
