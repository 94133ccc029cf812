#include "src/train/evaluation.h"

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "src/base/check.h"
#include "src/data/microbatch.h"

namespace dpfa::train {
namespace {

struct Sums {
  double loss = 0;
  int64_t tokens = 0;
  int64_t records = 0;
};

Sums sums_of_rank(model::Gpt2& gpt2, const data::Dataset& dataset, int64_t context, int64_t slots, int rank,
                  int size, const std::function<void()>& progress) {
  Sums sums;
  data::Microbatch batch;
  std::vector<int64_t> indices;
  std::vector<double> losses(slots);
  const std::vector<double> weights(slots, 1.0);
  for (int64_t next = rank; next < dataset.size();) {
    if (progress) progress();
    indices.clear();
    for (; next < dataset.size() && static_cast<int64_t>(indices.size()) < slots; next += size)
      indices.push_back(next);
    data::fill_microbatch(dataset, indices, slots, context, batch);
    gpt2.forward({slots, context, batch.input_ids, batch.targets, weights, batch.records}, nullptr,
                 /*for_backward=*/false, losses);
    for (size_t b = 0; b < indices.size(); ++b) {
      sums.loss += losses[b];
      sums.tokens += batch.target_counts[b];
    }
    sums.records += static_cast<int64_t>(indices.size());
  }
  return sums;
}

}  // namespace

HeldOutLoss evaluate(model::Gpt2& gpt2, const data::Dataset& dataset, int64_t context, int64_t slots,
                     comm::Communicator& communicator, const std::function<void()>& progress) {
  DPFA_CHECK(context >= 1 && context <= gpt2.shape().positions && slots >= 1, "context ", context, ", slots ",
             slots);
  if (dataset.vocab_size() > gpt2.shape().vocab) {
    throw StateError("the data set '" + dataset.dir().string() + "' has " +
                     std::to_string(dataset.vocab_size()) + " token ids, the model " +
                     std::to_string(gpt2.shape().vocab));
  }
  const Sums mine =
      sums_of_rank(gpt2, dataset, context, slots, communicator.rank(), communicator.size(), progress);
  const std::vector<std::byte> all = communicator.all_gather(std::as_bytes(std::span(&mine, 1)));
  HeldOutLoss result;
  double loss = 0;
  for (int rank = 0; rank < communicator.size(); ++rank) {
    Sums sums;
    std::memcpy(&sums, all.data() + rank * sizeof(Sums), sizeof(Sums));
    loss += sums.loss;
    result.tokens += sums.tokens;
    result.records += sums.records;
  }
  if (result.tokens > 0) result.loss_per_token = loss / static_cast<double>(result.tokens);
  return result;
}

}  // namespace dpfa::train
