#include "comm/secagg/secure_sum.h"

#include <sodium.h>

#include <algorithm>
#include <string>

#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::comm::secagg {
namespace {

// Lanes that are worked on at once: whole blocks of the hash, whole words of every layout, whole groups of
// the stream, and small enough to stay in the first cache level.
constexpr int64_t kChunk = 3072;
static_assert(kChunk % LaneHash::kBlock == 0 && kChunk % 6 == 0 && LaneHash::kSlice % kChunk == 0);

// The hash of a vector of lanes, slice by slice.
class SliceHashes {
 public:
  SliceHashes(const StreamKey& key, uint64_t nonce) : key_(key), nonce_(nonce) {}

  // The next lanes: at most one chunk, which lies in one slice.
  void add(std::span<const int32_t> lanes) {
    if (lanes_ % LaneHash::kSlice == 0) {
      flush();
      hash_.emplace(key_, nonce_, lanes_ / LaneHash::kSlice);
    }
    hash_->add(lanes);
    lanes_ += static_cast<int64_t>(lanes.size());
  }

  std::vector<uint64_t> totals() {
    flush();
    return std::move(totals_);
  }

 private:
  void flush() {
    if (hash_)
      for (const uint64_t value : hash_->value()) totals_.push_back(value);
    hash_.reset();
  }
  const StreamKey& key_;
  const uint64_t nonce_;
  int64_t lanes_ = 0;
  std::optional<LaneHash> hash_;
  std::vector<uint64_t> totals_;
};

constexpr int kLowBits = 31;

}  // namespace

SecureSum::SecureSum(Communicator& communicator, int lane_bits, SessionKeys keys)
    : SecureSum(communicator, lane_bits) {
  points_ = hkdf_expand(keys.group, Context("dpfa/secagg/points").bytes()).stream_key();
  verdicts_ = hkdf_expand(keys.group, Context("dpfa/secagg/verdicts").bytes());
  keys_.emplace(std::move(keys));
}

SecureSum::SecureSum(Communicator& communicator, int lane_bits)
    : communicator_(communicator), lane_bits_(lane_bits) {
  LaneLayout{lane_bits, 0}.check();
}

void SecureSum::check_order(int64_t step, int64_t attempt) {
  DPFA_CHECK(step > last_step_ || (step == last_step_ && attempt > last_attempt_), "the pad of step ", step,
             ", attempt ", attempt, " may have been used: the last one was of step ", last_step_,
             ", attempt ", last_attempt_);
  last_step_ = step;
  last_attempt_ = attempt;
}

void SecureSum::sum(int64_t step, int64_t attempt, std::span<int32_t> lanes, const Prepare& prepare) {
  const uint64_t nonce = nonce_of(step, attempt);
  check_order(step, attempt);
  const LaneLayout layout{lane_bits_, static_cast<int64_t>(lanes.size())};
  const auto words = static_cast<size_t>(layout.words());
  bool good = false;
  if (lane_bits_ == 32) {
    // Lanes are words: signed and unsigned integers of one width may share memory.
    good = sum_words(nonce, lanes, std::span(reinterpret_cast<uint32_t*>(lanes.data()), words), prepare);
  } else if (layout.word_bits() == 32) {
    words32_.resize(words);
    good = sum_words(nonce, lanes, std::span(words32_), prepare);
  } else {
    words64_.resize(words);
    good = sum_words(nonce, lanes, std::span(words64_), prepare);
  }
  if (good) return;
  std::fill(lanes.begin(), lanes.end(), 0);
  throw IntegrityError("the sum of step " + std::to_string(step) +
                       " is not the sum of what the ranks contributed (overflow, altered or lost data, or a "
                       "wrong key): the step is void on all ranks; start again with --resume");
}

template <typename Word>
bool SecureSum::sum_words(uint64_t nonce, std::span<int32_t> lanes, std::span<Word> words,
                          const Prepare& prepare) {
  const bool shared_memory = lane_bits_ == 32;
  const size_t per_word = 8 * sizeof(Word) / static_cast<size_t>(lane_bits_);
  const auto for_each_chunk = [&](const auto& call) {
    for (size_t first = 0; first < lanes.size(); first += kChunk) {
      const std::span<int32_t> chunk = lanes.subspan(first, std::min<size_t>(kChunk, lanes.size() - first));
      call(first, chunk, words.subspan(first / per_word, (chunk.size() + per_word - 1) / per_word));
    }
  };
  std::optional<SliceHashes> own, decoded;
  if (masked()) {
    own.emplace(*points_, nonce);
    decoded.emplace(*points_, nonce);
  }
  for_each_chunk([&](size_t first, std::span<int32_t> chunk, std::span<Word> chunk_words) {
    if (prepare) prepare(static_cast<int64_t>(first), chunk);
    if (own) own->add(chunk);
    if (!shared_memory) pack(chunk, chunk_words);
    if (masked()) keys_->lanes.apply(nonce, first / per_word, chunk_words);
  });
  communicator_.all_reduce_sum(words);
  for_each_chunk([&](size_t, std::span<int32_t> chunk, std::span<Word> chunk_words) {
    if (!shared_memory) unpack(std::span<const Word>(chunk_words), chunk);
    if (decoded) decoded->add(chunk);
  });
  if (!masked()) return true;
  const Totals totals = sum_hashes(nonce, own->totals());
  const bool good = DPFA_PLANT("sum_unchecked") || decoded->totals() == totals;
  return all_verify(nonce, good, totals);
}

SecureSum::Totals SecureSum::sum_hashes(uint64_t nonce, const Totals& own) {
  // Masked modulo the prime first: sums of bare halves would tell, by their carries, more of single hashes
  // than the hash of the sum does.
  Totals masked = own;
  if (!DPFA_PLANT("hash_carries_seen")) keys_->hashes.apply_to_residues(nonce, 0, masked);
  // 61 bits of each rank do not add up in 64: the low 31 and the high 30 bits travel in words of their own.
  std::vector<uint64_t> words;
  for (const uint64_t value : masked) {
    words.push_back(value & ((uint64_t{1} << kLowBits) - 1));
    words.push_back(value >> kLowBits);
  }
  if (DPFA_PLANT("hash_carries_seen")) keys_->hashes.apply(nonce, 0, words);
  communicator_.all_reduce_sum(std::span<uint64_t>(words));
  Totals totals;
  for (size_t k = 0; k < own.size(); ++k) {
    const uint64_t low = words[2 * k] % LaneHash::kPrime, high = words[2 * k + 1] % LaneHash::kPrime;
    totals.push_back(add_mod(low, multiply_mod(high, uint64_t{1} << kLowBits)));
  }
  return totals;
}

bool SecureSum::all_verify(uint64_t nonce, bool good, const Totals& totals) {
  const auto tag_of = [&](int rank, bool verdict) {
    Context message("dpfa/secagg/verdict");
    message.add(nonce).add(static_cast<uint64_t>(rank)).add(uint64_t{verdict});
    for (const uint64_t total : totals) message.add(total);
    return mac(*verdicts_, message.bytes());
  };
  const Bytes32 mine = tag_of(communicator_.rank(), good);
  const std::vector<std::byte> tags = communicator_.all_gather(std::as_bytes(std::span(&mine, 1)));
  // A rank is taken to agree only where its tag says so for the same sum of hashes.
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    const Bytes32 wanted = tag_of(rank, true);
    if (sodium_memcmp(tags.data() + static_cast<size_t>(rank) * sizeof(Bytes32), wanted.data(),
                      wanted.size()) != 0)
      good = false;
  }
  return good;
}

}  // namespace dpfa::comm::secagg
