#include "src/data/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include "src/base/check.h"
#include "src/base/error.h"
#include "src/base/plant.h"
#include "src/base/random/chacha20.h"
#include "src/plan/plan.h"

namespace dpfa::data {

namespace {

constexpr int64_t kChunk = 2048;  // records decided from one piece of keystream, 16 KiB

// The planted bug "shuffle_as_poisson": batches of a fixed size, taken in turn.
std::vector<int64_t> fixed_size_draw(double sample_rate, int64_t draw, int64_t records, int rank,
                                     int world_size) {
  const int64_t size = std::llround(sample_rate * static_cast<double>(records));
  std::vector<int64_t> drawn;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t record = (draw * size + i) % records;
    if (record % world_size == rank) drawn.push_back(record);
  }
  return drawn;
}

}  // namespace

PoissonSampler::PoissonSampler(const StreamKey& key, double sample_rate, int rank, int world_size)
    : key_(key), sample_rate_(sample_rate), rank_(rank), world_size_(world_size) {
  if (!(sample_rate > 0 && sample_rate <= 1)) {
    std::ostringstream text;
    text << "sample_rate is " << sample_rate << ", expected a number in (0, 1]";
    throw ConfigError(text.str());
  }
  DPFA_CHECK(world_size >= 1 && rank >= 0 && rank < world_size, "rank ", rank, " of ", world_size);
  if (DPFA_PLANT("wrong_q")) sample_rate_ = std::min(1.0, sample_rate * world_size);
}

std::vector<int64_t> PoissonSampler::draw(int64_t draw, int64_t dataset_records) const {
  DPFA_CHECK(draw >= 0 && dataset_records >= 0, "a negative draw or dataset");
  if (DPFA_PLANT("shuffle_as_poisson")) {
    return fixed_size_draw(sample_rate_, draw, dataset_records, rank_, world_size_);
  }
  std::vector<int64_t> drawn;
  // Of a rate below 1, q x 2^64 is exact in double, and 2^64 itself cannot occur.
  const bool all = sample_rate_ == 1;
  const uint64_t threshold = all ? 0 : static_cast<uint64_t>(std::ldexp(sample_rate_, 64));
  const int64_t stride = DPFA_PLANT("rank_batches_overlap") ? 1 : world_size_;
  int64_t record = DPFA_PLANT("rank_batches_overlap") ? 0 : rank_;
  // Record i is decided by the 64-bit word i of the stream (key, draw). Each rank computes the whole stream
  // and reads its own words: so the decision does not depend on the number of ranks, and a draw takes all
  // ranks equally long, however many records they have.
  std::array<uint32_t, 2 * kChunk> words;
  for (int64_t begin = 0; begin < dataset_records; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, dataset_records);
    fill_words(key_, static_cast<uint64_t>(draw), 2 * static_cast<uint64_t>(begin),
               std::span(words).first(2 * static_cast<size_t>(end - begin)));
    for (; record < end; record += stride) {
      const size_t place = 2 * static_cast<size_t>(record - begin);
      const uint64_t word = static_cast<uint64_t>(words[place + 1]) << 32 | words[place];
      if (all || word < threshold) drawn.push_back(record);
    }
  }
  return drawn;
}

int64_t most_drawn(double sample_rate, int64_t records, int ranks) {
  const double n = static_cast<double>(records), log_probability = -std::log(plan::kOverrun / ranks);
  const double mean = n * sample_rate, variance = mean * (1 - sample_rate);
  // exp(-t^2 / (2 (variance + t / 3))) = kOverrun / ranks.
  const double third = log_probability / 3;
  const double above = third + std::sqrt(third * third + 2 * variance * log_probability);
  return static_cast<int64_t>(std::min(n, std::ceil(mean + above)));
}

StepRoom room_of(double sample_rate, int64_t declared_records, int ranks, bool each_has_its_own) {
  const int64_t records = declared_records + (DPFA_PLANT("room_for_the_declared_alone") ? 0 : 1);
  const int64_t own = each_has_its_own ? records : (records + ranks - 1) / ranks;
  return {records, most_drawn(sample_rate, own, ranks)};
}

}  // namespace dpfa::data
