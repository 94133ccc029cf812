// One pass over a batch of a tiny model, its clipped sums by every route, and the same one example at a time.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/norm_route.h"
#include "tests/kernels/tiny_models.h"

namespace dpfa::kernels::test {

// The exact route, the same streamed in two parts, and the methods of the gram route, each for all matrices;
// with constant work where the name says so.
inline constexpr const char* kRoutes[] = {"exact",  "exact_constant_work",  "streamed",   "gram",
                                          "direct", "direct_constant_work", "materialise"};
// What a route's contribution may exceed the clipping norm by, relative.
double slack_of(const std::string& route);

struct ClippedSum {
  at::Tensor values;  // (P), f64
  std::vector<ExampleOutcome> outcomes;
};

// Forward and backward of the examples `which` of the model's batch, all at once, by the kernels.
class ModelPass {
 public:
  ModelPass(const TinyModel& model, std::span<const int64_t> which, at::ScalarType type, AttentionPath path);
  const std::vector<double>& losses() const { return losses_; }  // of each example
  const GradientRecords& records() const { return *records_; }
  ClippedSum clipped_sum(const std::string& route, double max_grad_norm) const;

 private:
  const TinyModel& model_;
  Batch batch_;
  std::unique_ptr<RecordingTape> tape_;
  std::vector<double> losses_;
  const GradientRecords* records_ = nullptr;
};

// One example by automatic differentiation.
struct Alone {
  double loss = 0, norm = 0;
  at::Tensor gradient;  // (P), f64
};
// All examples of the model's batch, in `type` throughout.
std::vector<Alone> one_at_a_time(const TinyModel& model, at::ScalarType type);

std::vector<int64_t> all_examples(const TinyModel& model);

}  // namespace dpfa::kernels::test
