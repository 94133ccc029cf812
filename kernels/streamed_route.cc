#include <c10/core/InferenceMode.h>

#include <cmath>
#include <vector>

#include "kernels/compute_type.h"
#include "kernels/example_gradient.h"
#include "kernels/lane_sums.h"
#include "kernels/norm_route.h"
#include "kernels/tiles.h"
#include "src/base/check.h"

namespace dpfa::kernels {
namespace {

at::ScalarType compute_type_of(const GradientRecords& part) {
  if (!part.linears.empty()) return part.linears.front().input.scalar_type();
  // Vectors alone: of the sums' type, which is what small parts of f32 and of f64 are made of.
  return part.vectors.front().per_example.scalar_type();
}

// Squared norm of one example's part; factor x part is added to the sink, where there is one, as well.
template <typename T>
double take(const GradientRecords& part, const std::vector<Panel>& panels, int64_t example,
            bool every_position, double factor, ContributionSink* sink) {
  const TableRows<T> rows = scatter_rows<T>(part, example, every_position);
  std::vector<double> squares(panels.size(), kUnmeasured);
#pragma omp parallel
  {
    c10::InferenceMode guard;
    std::vector<T> scratch;
#pragma omp for schedule(dynamic, 1)
    for (int64_t j = 0; j < static_cast<int64_t>(panels.size()); ++j) {
      scratch.resize(panels[j].elements());
      panel_gradient<T>(part, panels[j], example, &rows, scratch.data());
      squares[j] = sum_of_squares(std::span<const T>(scratch));
      if (sink != nullptr) add_panel(part, panels[j], std::span<const T>(scratch), factor, *sink);
    }
  }
  if (sink != nullptr) add_small_parts<T>(part, example, rows, factor, *sink);
  return small_parts_norm_squared<T>(part, example, rows) +
         ordered_sum(squares.data(), static_cast<int64_t>(squares.size()));
}

}  // namespace

void StreamedRoute::measure(const GradientRecords& part, std::span<const uint8_t> selected) {
  with_compute_type(compute_type_of(part), [&]<typename T>() {
    const auto panels = split_into_panels(part, c10::CppTypeToScalarType<T>::value);
    for (int64_t b = 0; b < part.examples(); ++b)
      if ((selected[b] || constant_work_) && part.length(b) > 0)
        measured_[b] += take<T>(part, panels, b, constant_work_, 0, nullptr);
  });
}

std::vector<ExampleOutcome> StreamedRoute::settle(std::span<const uint8_t> selected, Clipping clip) const {
  std::vector<ExampleOutcome> outcomes(measured_.size());
  for (size_t b = 0; b < outcomes.size(); ++b) {
    if (!selected[b]) continue;
    outcomes[b].norm = std::sqrt(measured_[b]);
    outcomes[b].factor = clip_factor(outcomes[b].norm, clip);
  }
  return outcomes;
}

void StreamedRoute::add(const GradientRecords& part, std::span<const ExampleOutcome> outcomes,
                        ContributionSink& sink) {
  with_compute_type(compute_type_of(part), [&]<typename T>() {
    const auto panels = split_into_panels(part, c10::CppTypeToScalarType<T>::value);
    for (int64_t b = 0; b < part.examples(); ++b)
      if ((outcomes[b].factor > 0 || constant_work_) && part.length(b) > 0)
        added_[b] += take<T>(part, panels, b, constant_work_, outcomes[b].factor, &sink);
  });
}

void StreamedRoute::check_added(std::span<const ExampleOutcome> outcomes) const {
  for (size_t b = 0; b < outcomes.size(); ++b)
    DPFA_CHECK(outcomes[b].factor == 0 || added_[b] == measured_[b],
               "a recomputed layer gave other numbers the second time: run with recompute = none");
}

}  // namespace dpfa::kernels
