#include "src/data/microbatch.h"

#include <algorithm>

#include "src/base/check.h"

namespace dpfa::data {

void fill_microbatch(const Dataset& dataset, std::span<const int64_t> indices, int64_t slots, int64_t context,
                     Microbatch& out) {
  DPFA_CHECK(slots >= 0 && context >= 1, slots, " slots of ", context, " tokens");
  DPFA_CHECK(static_cast<int64_t>(indices.size()) <= slots, "more records than slots");
  out.slots = slots;
  out.tokens = context;
  out.input_ids.assign(static_cast<size_t>(slots * context), 0);
  out.targets.assign(static_cast<size_t>(slots * context), kIgnored);
  out.records.assign(static_cast<size_t>(slots), -1);
  out.target_counts.assign(static_cast<size_t>(slots), 0);
  std::vector<int32_t> tokens;
  for (size_t slot = 0; slot < indices.size(); ++slot) {
    dataset.record(indices[slot], context, tokens);
    const auto row = static_cast<ptrdiff_t>(slot) * context;
    std::copy(tokens.begin(), tokens.end(), out.input_ids.begin() + row);
    if (!tokens.empty()) std::copy(tokens.begin() + 1, tokens.end(), out.targets.begin() + row);
    out.records[slot] = indices[slot];
    out.target_counts[slot] = std::max<int64_t>(static_cast<int64_t>(tokens.size()) - 1, 0);
  }
}

Microbatch made_up_microbatch(int64_t slots, int64_t tokens, int64_t vocab, int64_t first_record) {
  Microbatch m;
  m.slots = slots;
  m.tokens = tokens;
  m.target_counts.assign(slots, tokens);
  for (int64_t b = 0; b < slots; ++b) {
    const int64_t record = first_record + b;
    const auto id = [&](int64_t t) { return (t * 7919 + record * 104729 + t * t * 31) % vocab; };
    m.records.push_back(record);
    for (int64_t t = 0; t < tokens; ++t) {
      m.input_ids.push_back(id(t));
      m.targets.push_back(id(t + 1));
    }
  }
  return m;
}

}  // namespace dpfa::data
