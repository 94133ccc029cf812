// Fixed-shape chunks of a draw: B slots of T tokens, short records padded on the right, unused slots empty.
// The split never changes the clipped sum (exactly, in numerics = exact).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/data/dataset.h"

namespace dpfa::data {

inline constexpr int64_t kIgnored = -100;  // target of a position that has none, as in Hugging Face

struct Microbatch {
  int64_t slots = 0;                   // B
  int64_t tokens = 0;                  // T
  std::vector<int64_t> input_ids;      // (B, T); padding holds id 0
  std::vector<int64_t> targets;        // (B, T): the token that follows input_ids[b, t], or kIgnored
  std::vector<int64_t> records;        // (B): record id, -1 in an empty slot
  std::vector<int64_t> target_counts;  // (B): targets that are not ignored
};

// Fills `out` with the records `indices` (at most `slots`), each truncated to `context` tokens. T is always
// `context`: a record's numbers must not depend on the length of its neighbours.
void fill_microbatch(const Dataset& dataset, std::span<const int64_t> indices, int64_t slots, int64_t context,
                     Microbatch& out);

// Full slots of made-up tokens for self-tests and timing: a fixed walk through the vocabulary, another one
// for each record from `first_record` on.
Microbatch made_up_microbatch(int64_t slots, int64_t tokens, int64_t vocab, int64_t first_record = 0);

}  // namespace dpfa::data
