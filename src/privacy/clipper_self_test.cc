// Clipper::self_test: made-up microbatches, and what their parts and their records alone give.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "src/privacy/clipper.h"
#include "src/privacy/fingerprint_sink.h"

namespace dpfa::privacy {
namespace {

// Takes the targets from position `count` on out of a record.
void keep_targets(data::Microbatch& microbatch, int64_t slot, int64_t count) {
  const auto row = microbatch.targets.begin() + slot * microbatch.tokens;
  std::fill(row + count, row + microbatch.tokens, data::kIgnored);
  microbatch.target_counts[slot] = count;
}

void take_out(data::Microbatch& microbatch, int64_t slot) {
  keep_targets(microbatch, slot, 0);
  microbatch.records[slot] = -1;
}

// Only the records of the slots whose number has the bit, or has it not.
data::Microbatch part_of(data::Microbatch microbatch, int64_t bit, bool has_it) {
  for (int64_t b = 0; b < microbatch.slots; ++b)
    if (((b & bit) != 0) != has_it) take_out(microbatch, b);
  return microbatch;
}

// The same records in the same order, that of slot `first` in front.
data::Microbatch rotated(data::Microbatch microbatch, int64_t first) {
  const auto rotate = [&](std::vector<int64_t>& values, int64_t per_slot) {
    std::rotate(values.begin(), values.begin() + first * per_slot, values.end());
  };
  rotate(microbatch.input_ids, microbatch.tokens);
  rotate(microbatch.targets, microbatch.tokens);
  rotate(microbatch.records, 1);
  rotate(microbatch.target_counts, 1);
  return microbatch;
}

// The record of one slot in the first of `room` slots, the others empty.
data::Microbatch alone(const data::Microbatch& microbatch, int64_t slot, int64_t room) {
  data::Microbatch one = rotated(microbatch, slot);
  one.slots = room;
  one.input_ids.resize(room * one.tokens);
  one.targets.resize(room * one.tokens);
  one.records.resize(room);
  one.target_counts.resize(room);
  for (int64_t b = 1; b < room; ++b) take_out(one, b);
  return one;
}

// Full slots of the layouts that a self-test tries; the first has whole records alone.
std::vector<data::Microbatch> made_up_layouts(int64_t slots, int64_t context, int64_t vocab) {
  // Odd steps down from the context, so that lengths of both parities come.
  const int64_t step = std::max<int64_t>(1, (context / slots - 1) | 1);
  const auto descending = [&](int64_t k) { return std::max<int64_t>(1, context - k * step); };
  std::vector<data::Microbatch> layouts(5, data::made_up_microbatch(slots, context, vocab));
  keep_targets(layouts[1], 0, context / 2);
  for (int64_t b = 0; b < slots; ++b) {
    keep_targets(layouts[2], b, descending(b));
    keep_targets(layouts[3], b, descending(b - (b + 1) / 3));  // one, a pair, one, a pair, ...
    // Pairs of the lengths at which buffers of LibTorch's attention are aligned in many ways: 31, 29, ... 5.
    keep_targets(layouts[4], b, std::min(context, 31 - 2 * (b / 2 % 14)));
  }
  return layouts;
}

}  // namespace

bool Clipper::self_test(int64_t slots, int64_t context, double dropout_rate,
                        const std::function<void()>& before_pass) {
  if (slots <= 1) return true;
  // Masks are no secret here: what they drop is made up.
  const model::Dropout dropout{dropout_rate, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), /*step=*/0};
  const auto fingerprint = [&](const data::Microbatch& microbatch) {
    if (before_pass) before_pass();
    FingerprintSink sink;
    for (const auto& outcome : accumulate_into(microbatch, dropout_rate > 0 ? &dropout : nullptr, sink))
      sink.take(outcome);
    return sink.fingerprint();
  };
  const bool exact = plan_.numerics() == "exact";
  std::map<std::pair<int64_t, int64_t>, uint64_t> known;  // by record and targets
  const auto fingerprint_alone = [&](const data::Microbatch& microbatch, int64_t slot) {
    const auto [entry, is_new] =
        known.try_emplace({microbatch.records[slot], microbatch.target_counts[slot]});
    if (is_new) entry->second = fingerprint(alone(microbatch, slot, exact ? 1 : slots));
    return entry->second;
  };
  const std::vector<data::Microbatch> layouts = made_up_layouts(slots, context, model_.shape().vocab);
  for (const data::Microbatch& together : layouts) {
    const uint64_t all = fingerprint(together);
    if (exact) {
      // A microbatch must give what its examples give one at a time.
      uint64_t sum = 0;
      for (int64_t b = 0; b < slots; ++b) sum += fingerprint_alone(together, b);
      if (sum != all) return false;
      continue;
    }
    // It must give what its halves give, any two whole records being apart in one of these divisions, and the
    // same where every record has another slot.
    const int64_t divisions_end = &together == &layouts.front() ? slots : 2;
    for (int64_t bit = 1; bit < divisions_end; bit *= 2)
      if (fingerprint(part_of(together, bit, true)) + fingerprint(part_of(together, bit, false)) != all)
        return false;
    if (fingerprint(rotated(together, slots - 1)) != all) return false;
  }
  data::Microbatch last = layouts.front();
  for (int64_t b = 0; b + 1 < slots; ++b) take_out(last, b);
  return fingerprint(last) == fingerprint_alone(layouts.front(), slots - 1);
}

}  // namespace dpfa::privacy
