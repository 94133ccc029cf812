// The gram route: norms by the method that each matrix is given, then one product per example straight into
// the sink.
//
// All norm work of all matrices and examples is one list of tasks without a barrier between layers. A Gram
// norm N with error bound E on N^2 and bound F on the error of the product that is added is accepted where
//   E <= 2^-8 N^2  and  F <= 2^-10 N   (is_certified),
// so the added gradient has norm <= N (1 + 2^-9 + 2^-10) <= N (1 + kGramSlack); otherwise the norm is
// measured from the product itself. A tied table's cross term 2 <E, Z^T h> is taken from the rows of the
// distinct ids, with error at most 2 F |E|, added to E.
#include <c10/core/InferenceMode.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <vector>

#include "kernels/blas.h"
#include "kernels/compute_type.h"
#include "kernels/example_gradient.h"
#include "kernels/gemm.h"
#include "kernels/gram_norm.h"
#include "kernels/lane_sums.h"
#include "kernels/norm_route.h"
#include "src/base/check.h"
#include "src/base/flat_buffer.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

template <typename T>
using SumOf = typename blas::SumOf<T>::type;

// out (rows, columns) = a (tokens, rows)^T b (tokens, columns). bf16 operands have f32 sums here and the
// product is not rounded to bf16, so the error bound of gram_norm.h holds.
template <typename T>
void product_of(int64_t rows, int64_t columns, int64_t tokens, const T* a, int64_t a_stride, const T* b,
                int64_t b_stride, SumOf<T>* out) {
  if constexpr (std::is_same_v<T, double>)
    blas::gemm<double>(rows, columns, tokens, {a, a_stride, true}, {b, b_stride, false}, 0, out, columns);
  else
    multiply_transposed_tile(rows, columns, tokens, a, a_stride, b, b_stride, false, out, columns);
}

// One microbatch: what all tasks share.
template <typename T>
class Pass {
 public:
  using Sum = SumOf<T>;

  Pass(const GradientRecords& records, std::span<const uint8_t> selected, std::span<const NormMethod> methods,
       bool constant_work, FlatBuffer<std::byte>& kept)
      : records_(records),
        methods_(methods),
        constant_work_(constant_work),
        panels_(split_into_panels(records, c10::CppTypeToScalarType<Sum>::value)),
        examples_(records.examples()),
        selected_(examples_),
        rows_(examples_),
        first_slot_(examples_ + 1),
        first_strip_(examples_ + 1),
        crosses_(records.linears.size() * examples_, kUnmeasured),
        panel_squares_(panels_.size() * examples_, kUnmeasured) {
    for (int64_t b = 0; b < examples_; ++b)
      selected_[b] = (selected[b] != 0 || constant_work) && records.length(b) > 0;
    count_tasks(records.offsets.data(), examples_, kGramTile, first_slot_.data());
    for (int64_t b = 0; b < examples_; ++b)
      first_strip_[b + 1] = first_strip_[b] + gram_strips(records.length(b));
    slots_.assign(records.linears.size() * first_slot_.back(), kUnmeasured);
    strips_.assign(records.linears.size() * first_strip_.back(), {kUnmeasured, kUnmeasured, kUnmeasured});
    list_tasks();
    keep_panels(kept);
  }

  // Whether the example is measured.
  bool is_selected(int64_t b) const { return selected_[b] != 0; }
  const TableRows<T>& rows(int64_t b) const { return rows_[b]; }

  // Squared norms (B x matrices) of the selected examples.
  std::vector<double> measure() {
    run(tasks_);
    std::vector<Task> uncertified;
    std::vector<double> squares(examples_ * records_.linears.size());
    for (size_t k = 0; k < records_.linears.size(); ++k)
      for (int64_t b = 0; b < examples_; ++b)
        if (is_selected(b) && methods_[k] == NormMethod::kGram && !certified(k, b, square_of(squares, k, b)))
          add_panel_tasks(k, b, uncertified);
    run(uncertified);
    for (size_t k = 0; k < records_.linears.size(); ++k)
      for (int64_t b = 0; b < examples_; ++b)
        if (std::isnan(square_of(squares, k, b)) || methods_[k] != NormMethod::kGram)
          square_of(squares, k, b) = sum_of_panels(k, b);
    return squares;
  }

  // Adds factors[b] x gradient of the matrices.
  void add(std::span<const ExampleOutcome> outcomes, ContributionSink& sink) {
#pragma omp parallel
    {
      c10::InferenceMode guard;
      std::vector<Sum> scratch;
#pragma omp for schedule(dynamic, 1)
      for (int64_t j = 0; j < static_cast<int64_t>(panels_.size()); ++j)
        for (int64_t b = 0; b < examples_; ++b)
          if (outcomes[b].factor > 0 || (constant_work_ && is_selected(b)))
            add_product(j, b, outcomes[b].factor, scratch, sink);
    }
  }

 private:
  static constexpr int64_t kCross = -1;
  static constexpr GramUnits kWhole = {};  // flat clipping: one norm of a matrix; its bias is a vector record
  struct Task {
    size_t matrix;
    int64_t example;
    bool is_strip;
    int64_t part;  // strip or panel; kCross: the cross term of a tied table
  };

  // The rows that example b adds to matrix k where it is a tied table; null elsewhere.
  const ScatteredRows<T>* tied_rows(size_t k, int64_t b) const {
    const std::optional<size_t> tied = records_.embedding_tied_to(k);
    return tied ? &rows_[b][*tied] : nullptr;
  }
  double& square_of(std::vector<double>& squares, size_t k, int64_t b) const {
    return squares[b * records_.linears.size() + k];
  }

  void list_tasks() {
    for (size_t k = 0; k < records_.linears.size(); ++k)
      for (int64_t b = 0; b < examples_; ++b) {
        if (!is_selected(b)) continue;
        if (methods_[k] != NormMethod::kGram) {
          add_panel_tasks(k, b, tasks_);
          continue;
        }
        for (int64_t strip = 0; strip < gram_strips(records_.length(b)); ++strip)
          tasks_.push_back({k, b, true, strip});
        if (records_.embedding_tied_to(k)) tasks_.push_back({k, b, true, kCross});
      }
  }

  void add_panel_tasks(size_t k, int64_t b, std::vector<Task>& tasks) const {
    for (size_t j = 0; j < panels_.size(); ++j)
      if (panels_[j].linear == k) tasks.push_back({k, b, false, static_cast<int64_t>(j)});
  }

  // Room for the gradients of matrices that are materialised: panel by panel, example by example.
  void keep_panels(FlatBuffer<std::byte>& kept) {
    int64_t elements = 0;
    for (const Panel& panel : panels_) {
      const bool keeps = methods_[panel.linear] == NormMethod::kMaterialise;
      kept_at_.push_back(keeps ? elements : -1);
      if (keeps) elements += examples_ * panel.elements();
    }
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(Sum));
    if (kept.size() < bytes) kept = FlatBuffer<std::byte>(bytes);
    kept_ = reinterpret_cast<Sum*>(kept.data());
  }

  // Where the product of panel j and example b goes.
  Sum* room(int64_t j, int64_t b, std::vector<Sum>& scratch) const {
    const int64_t elements = panels_[j].elements();
    if (kept_at_[j] >= 0) return kept_ + kept_at_[j] + b * elements;
    if (static_cast<int64_t>(scratch.size()) < elements) scratch.resize(elements);
    return scratch.data();
  }

  void run(const std::vector<Task>& tasks) {
#pragma omp parallel
    {
      c10::InferenceMode guard;
      std::vector<Sum> scratch;
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < examples_; ++b)
        if (is_selected(b) && rows_[b].empty()) rows_[b] = scatter_rows<T>(records_, b, constant_work_);
#pragma omp for schedule(dynamic, 1)
      for (size_t i = 0; i < tasks.size(); ++i) run(tasks[i], scratch);
    }
  }

  void run(const Task& task, std::vector<Sum>& scratch) {
    const auto [k, b, is_strip, part] = task;
    if (!is_strip) {
      Sum* out = room(part, b, scratch);
      product(part, b, out);
      panel_squares_[part * examples_ + b] =
          sum_of_squares(std::span<const Sum>(out, static_cast<size_t>(panels_[part].elements())));
    } else if (part == kCross) {
      crosses_[k * examples_ + b] = cross_term(k, b);
    } else {
      gram_strip<T>(records_, k, b, part, kWhole, slots_of(k, b), strips_of(k, b));
    }
  }

  std::span<double> slots_of(size_t k, int64_t b) {
    return std::span(slots_).subspan(k * first_slot_.back() + first_slot_[b],
                                     first_slot_[b + 1] - first_slot_[b]);
  }

  std::span<GramTokens> strips_of(size_t k, int64_t b) {
    return std::span(strips_).subspan(k * first_strip_.back() + first_strip_[b],
                                      first_strip_[b + 1] - first_strip_[b]);
  }

  double sum_of_panels(size_t k, int64_t b) const {
    std::vector<double> squares;
    for (size_t j = 0; j < panels_.size(); ++j)
      if (panels_[j].linear == k) squares.push_back(panel_squares_[j * examples_ + b]);
    return ordered_sum(squares.data(), static_cast<int64_t>(squares.size()));
  }

  // Whether the Gram norm may be used: then `squared` holds it, otherwise NaN.
  bool certified(size_t k, int64_t b, double& squared) {
    GramNorm norm =
        gram_norm<T>(records_.linears[k], records_.length(b), kWhole, slots_of(k, b), strips_of(k, b));
    if (const ScatteredRows<T>* rows = tied_rows(k, b)) {
      const double rows_squared = sum_of_squares(std::span<const T>(rows->rows));
      norm.squared += rows_squared;
      if (!DPFA_PLANT("tied_norm_no_cross")) norm.squared += 2 * crosses_[k * examples_ + b];
      norm.error += 2 * norm.product_error * std::sqrt(rows_squared);
      norm.magnitude += std::sqrt(rows_squared);
    }
    const bool accepts = is_certified(norm) || DPFA_PLANT("tied_norm_no_cross") ||
                         DPFA_PLANT("gram_pairs_counted_once") || DPFA_PLANT("gram_uncertified");
    squared = accepts ? std::max(0.0, norm.squared) : std::numeric_limits<double>::quiet_NaN();
    return accepts;
  }

  void product(int64_t j, int64_t b, Sum* out) const {
    const Panel& panel = panels_[j];
    const LinearRecord& linear = records_.linears[panel.linear];
    const int64_t width = linear.columns(), stride = linear.rows(), begin = records_.begin(b);
    product_of<T>(panel.rows, panel.columns, records_.length(b),
                  linear.row_operand().const_data_ptr<T>() + begin * stride + panel.row, stride,
                  linear.column_operand().const_data_ptr<T>() + begin * width + panel.column, width, out);
    const ScatteredRows<T>* rows = tied_rows(panel.linear, b);
    if (rows == nullptr) return;
    auto id = std::lower_bound(rows->ids.begin(), rows->ids.end(), panel.row);
    for (; id != rows->ids.end() && *id < panel.row + panel.rows; ++id)
      for (int64_t c = 0; c < panel.columns; ++c)
        out[(*id - panel.row) * panel.columns + c] +=
            static_cast<Sum>(rows->rows[(id - rows->ids.begin()) * width + panel.column + c]);
  }

  void add_product(int64_t j, int64_t b, double factor, std::vector<Sum>& scratch, ContributionSink& sink) {
    if (DPFA_PLANT("bf16_row_scaling") && std::is_same_v<T, c10::BFloat16>)
      return add_product_of_scaled_rows(j, b, factor, sink);
    Sum* out = room(j, b, scratch);
    if (kept_at_[j] < 0) product(j, b, out);
    const std::span<const Sum> values(out, static_cast<size_t>(panels_[j].elements()));
    add_panel(records_, panels_[j], values, factor, sink);
  }

  // The planted mistake of applying the clip factor to the operand's rows, in their own type.
  void add_product_of_scaled_rows(int64_t j, int64_t b, double factor, ContributionSink& sink) const {
    const Panel& panel = panels_[j];
    const LinearRecord& linear = records_.linears[panel.linear];
    const int64_t tokens = records_.length(b), width = linear.columns(), begin = records_.begin(b);
    const at::Tensor scaled = linear.row_operand().narrow(0, begin, tokens).mul(factor).contiguous();
    std::vector<Sum> out(panel.elements());
    product_of<T>(panel.rows, panel.columns, tokens, scaled.const_data_ptr<T>() + panel.row, linear.rows(),
                  linear.column_operand().const_data_ptr<T>() + begin * width + panel.column, width,
                  out.data());
    add_panel(records_, panel, std::span<const Sum>(out), 1, sink);
  }

  // <E, Z^T h> over the rows of the distinct ids.
  double cross_term(size_t k, int64_t b) const {
    const LinearRecord& head = records_.linears[k];
    const ScatteredRows<T>& rows = *tied_rows(k, b);
    const int64_t width = head.input.size(1), vocab = head.output_gradient.size(1),
                  tokens = records_.length(b);
    const int64_t ids = static_cast<int64_t>(rows.ids.size());
    const T* z = head.output_gradient.const_data_ptr<T>() + records_.begin(b) * vocab;
    const T* h = head.input.const_data_ptr<T>() + records_.begin(b) * width;
    std::vector<T> columns(tokens * ids);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t u = 0; u < ids; ++u) columns[t * ids + u] = z[t * vocab + rows.ids[u]];
    std::vector<Sum> table(ids * width);
    product_of<T>(ids, width, tokens, columns.data(), ids, h, width, table.data());
    double sum = 0;
    for (int64_t i = 0; i < ids * width; ++i)
      sum += static_cast<double>(table[i]) * static_cast<double>(rows.rows[i]);
    return sum;
  }

  const GradientRecords& records_;
  std::span<const NormMethod> methods_;
  bool constant_work_;
  std::vector<Panel> panels_;
  int64_t examples_;
  std::vector<uint8_t> selected_;
  std::vector<TableRows<T>> rows_;
  std::vector<Task> tasks_;
  std::vector<int64_t> first_slot_, first_strip_;  // (B + 1): of each example within one matrix
  std::vector<double> slots_;
  std::vector<GramTokens> strips_;
  std::vector<double> crosses_, panel_squares_;
  std::vector<int64_t> kept_at_;  // of each panel in kept_; -1: not kept
  Sum* kept_ = nullptr;
};

class GramRoute final : public NormRoute {
 public:
  explicit GramRoute(NormMethodChoice choice) : choice_(std::move(choice)) {}

  void accumulate(const GradientRecords& records, std::span<const uint8_t> selected, Clipping clip,
                  ContributionSink& sink, std::span<ExampleOutcome> outcomes) override {
    with_compute_type(records.linears.front().input.scalar_type(), [&]<typename T>() {
      Pass<T> pass(records, selected, methods_for(records), choice_.constant_work, kept_);
      const std::vector<double> squares = pass.measure();
      const size_t matrices = records.linears.size();
      for (int64_t b = 0; b < records.examples(); ++b) {
        outcomes[b] = {};
        if (!pass.is_selected(b)) continue;
        double total = small_parts_norm_squared<T>(records, b, pass.rows(b));
        for (size_t k = 0; k < matrices; ++k) total += squares[b * matrices + k];
        if (DPFA_PLANT("slot_dependent_norm")) total *= 1 + 0x1p-20 * static_cast<double>(b);
        outcomes[b].norm = std::sqrt(total);
        outcomes[b].factor = selected[b] ? clip_factor(outcomes[b].norm, clip) : 0;
        if (outcomes[b].factor > 0 || choice_.constant_work)
          add_small_parts<T>(records, b, pass.rows(b), outcomes[b].factor, sink);
      }
      pass.add(outcomes, sink);
    });
  }

 private:
  // Chosen once for each number of slots: later microbatches of that shape take the same methods.
  std::span<const NormMethod> methods_for(const GradientRecords& records) {
    auto [entry, is_new] = methods_.try_emplace(records.examples());
    if (is_new)
      entry->second =
          methods_of(shapes_of(records, choice_.tokens), records.examples(), choice_, method_seconds);
    return entry->second;
  }

  NormMethodChoice choice_;
  std::map<int64_t, std::vector<NormMethod>> methods_;  // by the number of slots
  FlatBuffer<std::byte> kept_;
};

}  // namespace

double method_seconds(const MatrixShape& shape, NormMethod method) {
  const int64_t examples = method == NormMethod::kMaterialise ? shape.kept : shape.examples;
  GradientRecords records;
  records.offsets = equal_offsets(examples, shape.tokens);
  const auto made_up = [&](int64_t columns) {
    return at::randn({examples * shape.tokens, columns}).to(shape.compute);
  };
  records.linears.push_back({made_up(shape.inputs), made_up(shape.outputs), 0, shape.output_major});
  const int64_t elements = shape.inputs * shape.outputs;
  std::vector<int64_t> ids;
  if (shape.tied) {
    for (int64_t i = 0; i < examples * shape.tokens; ++i) ids.push_back(i * 7919 % shape.outputs);
    records.embeddings.push_back({ids, made_up(shape.inputs), 0, elements, 0});
  }
  FlatBuffer<int32_t> sum(elements + (shape.tied ? shape.tokens * shape.inputs : 0));
  IntegerSink sink(sum.span(), 0);
  const std::vector<uint8_t> selected(examples, 1);
  std::vector<ExampleOutcome> outcomes(examples);
  GramRoute route({.method = to_string(method)});
  double least = std::numeric_limits<double>::infinity();
  for (int run = 0; run < 3; ++run) {
    const auto start = std::chrono::steady_clock::now();
    route.accumulate(records, selected, 1, sink, outcomes);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (run > 0) least = std::min(least, elapsed.count() / static_cast<double>(examples));
  }
  return least;
}

std::unique_ptr<NormRoute> make_gram_route(NormMethodChoice choice) {
  DPFA_CHECK(!(choice.constant_work && choice.method == "gram"), "Gram norms have no constant work");
  return std::make_unique<GramRoute>(std::move(choice));
}

}  // namespace dpfa::kernels
