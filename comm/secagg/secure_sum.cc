#include "comm/secagg/secure_sum.h"

#include <sodium.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <string>

#include "comm/secagg/lane_hash.h"
#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::comm::secagg {
namespace {

// Lanes that are worked on at once: whole blocks of the hash, whole words of every layout, whole groups of
// the stream, and small enough to stay in the first cache level.
constexpr int64_t kChunk = 3072;
static_assert(kChunk % LaneHash::kBlock == 0 && kChunk % 6 == 0 && LaneHash::kSlice % kChunk == 0);

// Calls call(first, count) for chunks that are `size` lanes together, by all threads.
template <typename Call>
void by_chunks(size_t size, const Call& call) {
  const auto chunks = static_cast<int64_t>((size + kChunk - 1) / kChunk);
  std::exception_ptr thrown;  // none may leave the parallel region
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const auto first = static_cast<size_t>(chunk * kChunk);
    try {
      call(first, std::min<size_t>(kChunk, size - first));
    } catch (...) {
#pragma omp critical(dpfa_secure_sum_thrown)
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

// The hashes of vectors of lanes, slice by slice.
class SliceHashes {
 public:
  SliceHashes(const StreamKey& key, uint64_t nonce, size_t lanes) {
    for (int64_t slice = 0; slice * LaneHash::kSlice < static_cast<int64_t>(lanes); ++slice)
      slices_.emplace_back(key, nonce, slice);
  }

  HashTotals zeros() const { return HashTotals(2 * slices_.size()); }

  // totals := those with these lanes, a chunk that lies in one slice. By any thread: sums modulo a prime do
  // not depend on their order.
  void add(size_t first, std::span<const int32_t> lanes, HashTotals& totals) const {
    const size_t slice = first / LaneHash::kSlice;
    const auto part = slices_[slice].part(static_cast<int64_t>(first % LaneHash::kSlice), lanes);
#pragma omp critical(dpfa_secure_sum_totals)
    for (size_t k = 0; k < 2; ++k) totals[2 * slice + k] = add_mod(totals[2 * slice + k], part[k]);
  }

 private:
  std::deque<LaneHash> slices_;
};

// Lanes and words in this process's memory; lanes of 32 bits are words already.
template <typename Word>
class HostBucket : public Bucket {
 public:
  HostBucket(Communicator& communicator, const LaneLayout& layout, std::span<int32_t> lanes,
             std::span<Word> words, const SecureSum::Prepare& prepare)
      : communicator_(communicator),
        lanes_(lanes),
        words_(words),
        per_word_(static_cast<size_t>(layout.lanes_per_word())),
        prepare_(prepare) {}

  void make_words(const Pad* pad) override {
    const auto hashes = hashes_for(pad, hashes_.made);
    for_each_chunk([&](size_t first, std::span<int32_t> chunk, std::span<Word> chunk_words) {
      if (prepare_) prepare_(static_cast<int64_t>(first), chunk);
      if (hashes) hashes->add(first, chunk, hashes_.made);
      if (!shared_memory()) pack(chunk, chunk_words);
      if (pad != nullptr) pad->masks.apply(pad->nonce, first / per_word_, chunk_words);
    });
  }
  void add_words() override { communicator_.all_reduce_sum(words_); }
  void read_words(const Pad* pad) override {
    const auto hashes = hashes_for(pad, hashes_.read);
    for_each_chunk([&](size_t first, std::span<int32_t> chunk, std::span<Word> chunk_words) {
      if (!shared_memory()) unpack(std::span<const Word>(chunk_words), chunk);
      if (hashes) hashes->add(first, chunk, hashes_.read);
    });
  }
  Hashes hashes() override { return hashes_; }
  void clear() override { std::fill(lanes_.begin(), lanes_.end(), 0); }

 private:
  bool shared_memory() const { return per_word_ == 1; }
  std::unique_ptr<SliceHashes> hashes_for(const Pad* pad, HashTotals& totals) const {
    if (pad == nullptr) return nullptr;
    auto hashes = std::make_unique<SliceHashes>(pad->points, pad->nonce, lanes_.size());
    totals = hashes->zeros();
    return hashes;
  }
  template <typename Call>
  void for_each_chunk(const Call& call) {
    by_chunks(lanes_.size(), [&](size_t first, size_t count) {
      call(first, lanes_.subspan(first, count),
           words_.subspan(first / per_word_, (count + per_word_ - 1) / per_word_));
    });
  }

  Communicator& communicator_;
  std::span<int32_t> lanes_;
  std::span<Word> words_;
  size_t per_word_;
  const SecureSum::Prepare& prepare_;
  Hashes hashes_;
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
  const LaneLayout layout{lane_bits_, static_cast<int64_t>(lanes.size())};
  const auto words = static_cast<size_t>(layout.words());
  const auto sum_words = [&](auto of_layout) {
    HostBucket bucket(communicator_, layout, lanes, of_layout, prepare);
    sum(step, attempt, bucket);
  };
  if (lane_bits_ == 32) {
    // Lanes are words: signed and unsigned integers of one width may share memory.
    sum_words(std::span(reinterpret_cast<uint32_t*>(lanes.data()), words));
  } else if (layout.word_bits() == 32) {
    words32_.resize(words);
    sum_words(std::span(words32_));
  } else {
    words64_.resize(words);
    sum_words(std::span(words64_));
  }
}

void SecureSum::sum(int64_t step, int64_t attempt, Bucket& bucket) {
  const uint64_t nonce = nonce_of(step, attempt);
  check_order(step, attempt);
  std::optional<Pad> with_masks;
  if (masked()) with_masks.emplace(Pad{nonce, keys_->lanes, *points_});
  const Pad* pad = with_masks ? &*with_masks : nullptr;
  bucket.make_words(pad);
  bucket.add_words();
  bucket.read_words(pad);
  if (pad == nullptr || verifies(nonce, bucket.hashes())) return;
  bucket.clear();
  throw IntegrityError("the sum of step " + std::to_string(step) +
                       " is not the sum of what the ranks contributed (overflow, altered or lost data, or a "
                       "wrong key): the step is void on all ranks; start again with --resume");
}

bool SecureSum::verifies(uint64_t nonce, const Bucket::Hashes& hashes) {
  const HashTotals totals = sum_hashes(nonce, hashes.made);
  const bool good = DPFA_PLANT("sum_unchecked") || hashes.read == totals;
  return all_verify(nonce, good, totals);
}

HashTotals SecureSum::sum_hashes(uint64_t nonce, const HashTotals& own) {
  // Masked modulo the prime first: sums of bare halves would tell, by their carries, more of single hashes
  // than the hash of the sum does.
  HashTotals masked = own;
  if (!DPFA_PLANT("hash_carries_seen")) keys_->hashes.apply_to_residues(nonce, 0, masked);
  // 61 bits of each rank do not add up in 64: the low 31 and the high 30 bits travel in words of their own.
  std::vector<uint64_t> words;
  for (const uint64_t value : masked) {
    words.push_back(value & ((uint64_t{1} << kLowBits) - 1));
    words.push_back(value >> kLowBits);
  }
  if (DPFA_PLANT("hash_carries_seen")) keys_->hashes.apply(nonce, 0, words);
  communicator_.all_reduce_sum(std::span<uint64_t>(words));
  HashTotals totals;
  for (size_t k = 0; k < own.size(); ++k) {
    const uint64_t low = words[2 * k] % LaneHash::kPrime, high = words[2 * k + 1] % LaneHash::kPrime;
    totals.push_back(add_mod(low, multiply_mod(high, uint64_t{1} << kLowBits)));
  }
  return totals;
}

bool SecureSum::all_verify(uint64_t nonce, bool good, const HashTotals& totals) {
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
