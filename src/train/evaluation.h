// Held-out loss: the mean cross-entropy of a data set's tokens under a model.
//
// Held-out records are as private as training records unless their owner declares them public: callers ask
// for that declaration before anything computed here leaves the process.
#pragma once

#include <cstdint>
#include <functional>

#include "comm/communicator.h"
#include "src/data/dataset.h"
#include "src/model/gpt2.h"

namespace dpfa::train {

struct HeldOutLoss {
  double loss_per_token = 0;  // nats; 0 where there is no token; not finite where a logit is not
  int64_t tokens = 0;         // predicted tokens: of each record all but the first
  int64_t records = 0;
};

// Every record truncated to `context` tokens (1 to the model's positions), each token with equal weight,
// `slots` records per forward pass. Rank r takes the records i with i mod size == r; the sums of the ranks
// are added in rank order, so that all ranks return the same bits. Throws StateError where the data set has
// more token ids than the model. Collective. `progress` (may be empty) is called before each pass.
HeldOutLoss evaluate(model::Gpt2& gpt2, const data::Dataset& dataset, int64_t context, int64_t slots,
                     comm::Communicator& communicator, const std::function<void()>& progress = {});

}  // namespace dpfa::train
