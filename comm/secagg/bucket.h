// A rank's contribution in the memory of some device, and the two things that SecureSum asks of it: the pass
// over it and the sum of its words. Order of steps, refusal, hashes between ranks and verdict are
// SecureSum's.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/secagg/masks.h"
#include "src/base/stream_key.h"

namespace dpfa::comm::secagg {

// What the words and hashes of one step are made with.
struct Pad {
  uint64_t nonce;
  const Masks& masks;
  const StreamKey& points;  // of the hash
};

using HashTotals = std::vector<uint64_t>;  // two hashes for each slice (lane_hash.h)

class Bucket {
 public:
  virtual ~Bucket() = default;

  // Makes the lanes that are contributed, hashes them, packs them into words (lane_layout.h) and masks these;
  // without a pad the words are neither masked nor hashed. Called once for each step, before the others.
  virtual void make_words(const Pad* pad) = 0;
  // words := their sum over the ranks, modulo the word. Collective.
  virtual void add_words() = 0;
  // Lanes := what the words hold, hashed where there is a pad.
  virtual void read_words(const Pad* pad) = 0;

  // Of a step with a pad, after read_words: what was contributed, and what was read.
  struct Hashes {
    HashTotals made, read;
  };
  virtual Hashes hashes() = 0;
  // All lanes become 0: the sum is void.
  virtual void clear() = 0;
};

}  // namespace dpfa::comm::secagg
