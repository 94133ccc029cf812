// Choices made by a measurement at the start of a run, on made-up tokens: how many examples share a pass,
// and, where the configuration says numerics = auto, by which route their norms are measured. Neither reads
// data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/norm_method.h"
#include "src/model/gpt2.h"
#include "src/plan/plan.h"
#include "src/privacy/clipper.h"

namespace dpfa::train {

// "exact" or "fp32", whichever takes less time per example at `context` tokens. Changes the plan (its slack),
// so rank 0 decides once and the answer enters config.ini and the ledger.
std::string faster_numerics(const plan::Config& config, model::Gpt2& model, int64_t context);

// Whether a private run may take `slots` records per pass: Clipper::self_test. Where it fails the log says
// so.
bool may_share_passes(privacy::Clipper& clipper, int64_t slots, int64_t context, double dropout_rate,
                      const std::function<void()>& before_pass = {});

// The number of slots with the least time per example, at most `largest`, among those that a private run may
// take (may_share_passes) and whose activations fit into a quarter of the memory. 1 where nothing larger
// qualifies.
int64_t best_microbatch_size(const plan::PrivacyPlan& plan, const plan::Config& config, model::Gpt2& model,
                             int64_t context, int64_t largest);

// How the configuration wants norms measured where numerics = fp32; times are kept in the user's cache. Each
// choice is given to `log` as a line of public shapes.
kernels::NormMethodChoice norm_methods(const plan::RuntimeConfig& runtime, int64_t context,
                                       std::function<void(const std::string&)> log = {});

}  // namespace dpfa::train
