// Forward, backward, per-example norms and clipping of a microbatch, added to a ClippedSum.
//
// Guarantee (add or remove one record): inserting a record anywhere in the draw changes the integer sum by at
// most the plan's sensitivity in L2 norm. It holds because each example's contribution is bounded by what was
// measured (numerics = fp32: by what was measured and the certified error in the plan's slack) and depends on
// no other example: where examples share a pass, self_test() has shown for the run's shapes that an example's
// bits depend neither on its slot nor on its neighbours. The slack covers no such dependence: every other
// record of the pass would add to it.
//
// Edge cases: an empty slot, a record without targets, and a record whose loss or norm is not finite
// contribute nothing. None of these is counted, logged or an error: they are private.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/norm_route.h"
#include "src/data/microbatch.h"
#include "src/model/gpt2.h"
#include "src/plan/plan.h"
#include "src/privacy/clipped_sum.h"
#include "src/privacy/noisy_gradient.h"

namespace dpfa::privacy {

class Clipper {
 public:
  // `model` must outlive the Clipper. `methods`: how norms are measured where the plan says numerics = fp32,
  // which a model that recomputes its layers has no route for: InternalError.
  // `constant_work`: padding, records that are excluded and empty slots take the work of a whole record that
  // counts, and what is excluded adds zeros: neither lengths nor tokens nor what is left out change the work.
  // Not with method gram (kernels/norm_route.h).
  Clipper(const plan::PrivacyPlan& plan, model::Gpt2& model, kernels::NormMethodChoice methods = {},
          bool constant_work = false);
  ~Clipper();

  // Where methods are chosen by measurement: chooses, by a pass over made-up tokens, how the norms of
  // microbatches of this shape are measured. To be called before the first draw, on every rank: what it
  // measures, keeps in the user's cache and prints would otherwise tell when the first record was drawn.
  void choose_methods(int64_t slots, int64_t context);

  // A sum of nothing. Takes over the memory of `spent` (a gradient that the optimizer has applied). `room`:
  // slots that are sure to be added to it, empty ones included; 0 where their number follows from the draw.
  ClippedSum zero(std::optional<NoisyGradient> spent = std::nullopt, int64_t room = 0) const;
  // Adds the clipped gradients of the microbatch's examples. `dropout` may be null.
  void accumulate(const data::Microbatch& microbatch, const model::Dropout* dropout, ClippedSum& sum);

  // The same into any sink, with each example's norm and factor: for oracles and `dpfa debug gradients`.
  std::vector<kernels::ExampleOutcome> accumulate_into(const data::Microbatch& microbatch,
                                                       const model::Dropout* dropout,
                                                       kernels::ContributionSink& sink,
                                                       std::vector<double>* losses = nullptr);

  // Whether an example has the same bits (norm, factor, contribution) whatever its slot of `slots`, its
  // neighbours and the lengths before it, on made-up tokens, at the current weights and with dropout of the
  // run's rate; with numerics = exact also in a pass of its own, so that the size of microbatches changes
  // nothing either (fp32: norm_method.h may measure norms in another way for another number of slots).
  // Tried are samples of what a run meets, so it is evidence about the kernels that they take and no proof
  // for others: records of `context` tokens all, one of half as many in front, all of different lengths,
  // pairs of equal lengths among others (attention takes neighbours of one length together), a lone record in
  // the last slot. Always true for one slot. `before_pass` is called before each forward pass.
  bool self_test(int64_t slots, int64_t context, double dropout_rate = 0,
                 const std::function<void()>& before_pass = {});

 private:
  // A model that recomputes its layers: one backward pass to measure, one to add.
  std::vector<kernels::ExampleOutcome> accumulate_streamed(std::span<const uint8_t> selected,
                                                           kernels::ContributionSink& sink);
  // bf16 products depend on the number of rows (kernels/gemm.h), so there every slot has all its rows.
  bool skips_padding() const;

  const plan::PrivacyPlan& plan_;
  model::Gpt2& model_;
  std::unique_ptr<kernels::NormRoute> route_;
  bool constant_work_, measures_methods_;
};

// The rule of a plan's clipping; its max_grad_norm.
kernels::Clipping clipping_of(const plan::PrivacyPlan& plan);

// Weight of each target in an example's loss: 1 / targets (token_mean) or 1 (token_sum); 0 without targets.
std::vector<double> loss_weights(const data::Microbatch& microbatch, const std::string& loss);
// skips_padding: positions behind a record's last target are not worked on.
model::Batch to_batch(const data::Microbatch& microbatch, std::span<const double> weights,
                      bool skips_padding);

}  // namespace dpfa::privacy
