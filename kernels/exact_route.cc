// The exact route: what is measured is what is added.
//
// Panels of one example's gradient are formed into a reused flat buffer and squared while they are hot. The
// clip factor is known only after the last panel, so each panel is added to the sink one example later, just
// before the next example's product overwrites it: one read of the buffer instead of two, and no barrier
// between layers.
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <vector>

#include "kernels/compute_type.h"
#include "kernels/example_gradient.h"
#include "kernels/lane_sums.h"
#include "kernels/norm_route.h"
#include "kernels/tiles.h"
#include "src/base/flat_buffer.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

// Below this many numbers one thread is done before the others have woken up.
constexpr int64_t kParallelElements = 1 << 20;

class ExactRoute final : public NormRoute {
 public:
  explicit ExactRoute(bool constant_work) : constant_work_(constant_work) {}

  void accumulate(const GradientRecords& records, std::span<const uint8_t> selected, Clipping clip,
                  ContributionSink& sink, std::span<ExampleOutcome> outcomes) override {
    with_compute_type(records.linears.front().input.scalar_type(),
                      [&]<typename T>() { run<T>(records, selected, clip, sink, outcomes); });
  }

 private:
  template <typename T>
  void run(const GradientRecords& records, std::span<const uint8_t> selected, Clipping clip,
           ContributionSink& sink, std::span<ExampleOutcome> outcomes) {
    const std::vector<Panel> panels = split_into_panels(records, c10::CppTypeToScalarType<T>::value);
    std::vector<int64_t> starts(panels.size());
    int64_t elements = 0;
    for (size_t j = 0; j < panels.size(); ++j) {
      starts[j] = elements;
      elements += panels[j].elements();
    }
    T* buffer = buffer_of<T>(elements);
    const auto values = [&](size_t j) {
      return std::span<const T>(buffer + starts[j], static_cast<size_t>(panels[j].elements()));
    };

    std::vector<double> squares;
    double pending_factor = 0;  // of the example whose panels the buffer holds
    bool is_pending = false;    // whether they are to be added
    const int64_t count = static_cast<int64_t>(panels.size());
    for (int64_t b = 0; b < records.examples(); ++b) {
      outcomes[b] = {};
      const bool counts = selected[b] || DPFA_PLANT("zero_times_nan");
      if (records.length(b) == 0 || !(counts || constant_work_)) continue;
      const TableRows<T> rows = scatter_rows<T>(records, b, constant_work_);
      squares.assign(panels.size(), kUnmeasured);
#pragma omp parallel for schedule(dynamic, 1) if (elements >= kParallelElements)
      for (int64_t j = 0; j < count; ++j) {
        c10::InferenceMode guard;
        if (is_pending) add_panel(records, panels[j], values(j), pending_factor, sink);
        panel_gradient<T>(records, panels[j], b, &rows, buffer + starts[j]);
        squares[j] = sum_of_squares(values(j));
      }
      double total = small_parts_norm_squared<T>(records, b, rows) + ordered_sum(squares.data(), count);
      if (DPFA_PLANT("tied_norm_no_cross"))
        total = norm_squared_without_cross_term<T>(records, panels, b, rows);
      outcomes[b].norm = std::sqrt(total);
      outcomes[b].factor = counts ? clip_factor(outcomes[b].norm, clip) : 0;
      if (DPFA_PLANT("zero_times_nan") && outcomes[b].factor == 0) outcomes[b].factor = 1e-30;
      pending_factor = outcomes[b].factor;
      is_pending = pending_factor > 0 || constant_work_;
      if (is_pending) add_small_parts<T>(records, b, rows, pending_factor, sink);
    }
    if (!is_pending) return;
#pragma omp parallel for schedule(dynamic, 1) if (elements >= kParallelElements)
    for (int64_t j = 0; j < count; ++j) add_panel(records, panels[j], values(j), pending_factor, sink);
  }

  // The planted mistake of libraries that add the two squared norms of a shared table.
  template <typename T>
  static double norm_squared_without_cross_term(const GradientRecords& records,
                                                const std::vector<Panel>& panels, int64_t b,
                                                const TableRows<T>& rows) {
    double total = small_parts_norm_squared<T>(records, b, rows);
    for (size_t e = 0; e < rows.size(); ++e)
      if (records.embeddings[e].tied_head) total += sum_of_squares(std::span<const T>(rows[e].rows));
    std::vector<T> scratch;
    for (const Panel& panel : panels) {
      scratch.resize(panel.elements());
      panel_gradient<T>(records, panel, b, nullptr, scratch.data());
      total += sum_of_squares(std::span<const T>(scratch));
    }
    return total;
  }

  // One buffer for the life of the route, in bytes, so that its pages are touched once.
  template <typename T>
  T* buffer_of(int64_t elements) {
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(T));
    if (buffer_.size() < bytes) buffer_ = FlatBuffer<std::byte>(bytes);
    return reinterpret_cast<T*>(buffer_.data());
  }

  bool constant_work_;
  FlatBuffer<std::byte> buffer_;
};

}  // namespace

std::unique_ptr<NormRoute> make_exact_route(bool constant_work) {
  return std::make_unique<ExactRoute>(constant_work);
}

}  // namespace dpfa::kernels
