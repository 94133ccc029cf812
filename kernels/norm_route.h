// From the records of a backward pass to clipped contributions: measure each example's gradient norm over all
// trainable parameters, derive its clip factor (clip_rule.h), add factor x gradient to a sink.
//
// Guarantee (what sensitivity rests on): the contribution that example b adds has L2 norm at most
//   max_grad_norm x (1 + slack)   before the sink rounds it,
// for every input, with slack 0 for the exact route up to double rounding and kGramSlack for the gram route.
// An example that is not selected, or whose norm is not finite, adds nothing: it is skipped, not multiplied
// by 0. An example's contribution depends on its own rows of the records alone.
//
// constant_work: such an example is measured and added like any other, with factor 0 (contribution_sink.h),
// and an example's token rows are added by positions: the work does not depend on which examples count or on
// how many of their tokens are distinct (docs/privacy_model.md says what is left). A Gram norm that is not
// certified is measured again, so method gram has no constant work.
//
// The exact route materialises one example's gradient at a time in a reused buffer and takes its norm in
// double from those very numbers, whatever cancellation happened in the products before.
//
// The gram route takes each matrix's norms by one of the three methods of norm_method.h, gram_norm.h among
// them, then forms one product per example straight into the sink. Where the forward error bound of a Gram
// norm is not small the norm is measured from the gradient instead, so kGramSlack holds for every input. Its
// methods are for many short examples; source: Li et al. 2022 (arXiv 2110.05679).
//
// Every norm adds the squares of its panels in the order of tiles.h (ordered_sum), each square in that of
// lane_sums.h. A product runs over the rows of one example, so its depth has no boundary between examples to
// be cut at (DepthStep of tiles.h): its order is that of gemm.h, from the example's first row on.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "kernels/clip_rule.h"
#include "kernels/contribution_sink.h"
#include "kernels/norm_method.h"
#include "kernels/records.h"

namespace dpfa::kernels {

struct ExampleOutcome {
  double norm = 0;    // over all trainable parameters; may be infinite or NaN: private, never logged
  double factor = 0;  // clip_factor(); 0: the example contributed nothing
};

class NormRoute {
 public:
  virtual ~NormRoute() = default;
  // selected (B): which examples count (finite loss, at least one target). outcomes (B) is overwritten.
  virtual void accumulate(const GradientRecords& records, std::span<const uint8_t> selected, Clipping clip,
                          ContributionSink& sink, std::span<ExampleOutcome> outcomes) = 0;
};

// True norm <= (1 + kGramSlack) x reported norm: 2^-9 from the certified Gram error, 2^-10 from the rounding
// of the product that is added (gram_route.cc derives both).
inline constexpr double kGramSlack = 0x1p-8;

// Most that one contribution moves an integer on a grid of at least max_grad_norm x 2^-23 (src/plan/plan.h),
// by any route: its norm in grid units, and one unit for the rounding of the scaled value and to the grid.
inline constexpr int64_t kLargestInteger = static_cast<int64_t>(0x1p23 * (1 + kGramSlack)) + 1;
// So many contributions fit 32 bits.
inline constexpr int64_t kContributionsIn32Bits = std::numeric_limits<int32_t>::max() / kLargestInteger;

// The exact route over records that come in parts and are gone after each (a model that recomputes its
// layers): first every part is measured, then the factors are settled, then every part comes again and is
// added. Throws InternalError where the parts of the second pass do not have the norms of the first: what is
// added must be what was measured.
class StreamedRoute {
 public:
  explicit StreamedRoute(int64_t examples, bool constant_work = false)
      : constant_work_(constant_work), measured_(examples), added_(examples) {}
  void measure(const GradientRecords& part, std::span<const uint8_t> selected);
  std::vector<ExampleOutcome> settle(std::span<const uint8_t> selected, Clipping clip) const;
  void add(const GradientRecords& part, std::span<const ExampleOutcome> outcomes, ContributionSink& sink);
  void check_added(std::span<const ExampleOutcome> outcomes) const;

 private:
  bool constant_work_;
  std::vector<double> measured_, added_;  // (B), squared norms
};

std::unique_ptr<NormRoute> make_exact_route(bool constant_work = false);
std::unique_ptr<NormRoute> make_gram_route(NormMethodChoice choice = {});

// Seconds per example that `method` takes to measure the norms of such a matrix and to add its gradients, of
// shape.examples of them (shape.kept for kMaterialise; at least 1): the less of two runs after one that
// touches the memory, on made-up operands.
double method_seconds(const MatrixShape& shape, NormMethod method);

}  // namespace dpfa::kernels
