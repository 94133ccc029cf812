// The examples of one forward pass, as they are given and as a model works on them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dpfa::model {

struct Batch {
  int64_t examples = 0, tokens = 0;
  std::span<const int64_t> input_ids;    // (B, T)
  std::span<const int64_t> targets;      // (B, T), negative where a position has none
  std::span<const double> loss_weights;  // (B): weight of each target's cross-entropy in the example's loss
  std::span<const int64_t> records;      // (B): record id, keys the dropout masks
  // (B): how many of an example's positions are worked on, 0 to T; none of the others has a target. Empty: T
  // each.
  std::vector<int64_t> lengths = {};
  // Positions without a target take the work of those with one, down to the softmax over the vocabulary.
  bool every_row = false;
};

// The positions that are worked on, one behind another: N rows.
struct BatchRows {
  std::vector<int64_t> offsets = {0};  // (B + 1): example b's rows are [offsets[b], offsets[b + 1])
  std::vector<int64_t> ids, targets;   // (N)
  std::vector<double> loss_weights;    // (N)

  int64_t count() const { return offsets.back(); }
  // Keeps its memory from batch to batch. Throws InternalError for a length outside [0, T].
  void assign(const Batch& batch);
};

}  // namespace dpfa::model
