#include "src/model/batch.h"

#include "src/base/check.h"

namespace dpfa::model {

void BatchRows::assign(const Batch& batch) {
  offsets.assign(1, 0);
  ids.clear();
  targets.clear();
  loss_weights.clear();
  for (int64_t b = 0; b < batch.examples; ++b) {
    const int64_t length = batch.lengths.empty() ? batch.tokens : batch.lengths[b];
    DPFA_CHECK(length >= 0 && length <= batch.tokens, length);
    const auto from = static_cast<ptrdiff_t>(b * batch.tokens);
    ids.insert(ids.end(), batch.input_ids.begin() + from, batch.input_ids.begin() + from + length);
    targets.insert(targets.end(), batch.targets.begin() + from, batch.targets.begin() + from + length);
    loss_weights.insert(loss_weights.end(), length, batch.loss_weights[b]);
    offsets.push_back(offsets.back() + length);
  }
}

}  // namespace dpfa::model
