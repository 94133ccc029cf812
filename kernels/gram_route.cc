// The gram route: norms without gradients, then one product per example straight into the sink.
//
// Forward error. Every Gram entry is a sum of n products formed in chunks of kDepth, each chunk added to the
// running f32 sum: a term takes part in at most kDepth + n / kDepth + 1 additions, so with u = 2^-24 its
// entry is off by at most (kDepth + n / kDepth + 2) u |x_t| |x_t'|, whatever order the product uses inside a
// chunk (Higham, Accuracy and Stability, section 3.1). With S = sum_t |x_t| |g_t| the error of the squared
// norm is then at most
//   gamma S^2,  gamma = 1.01 (2 kDepth + d / kDepth + p / kDepth + 4) u
// (sums of products of entries run in double; 1.01 covers the second-order terms and S being computed in
// f32). The product that is added has |fl(x^T g) - x^T g| <= 1.01 T u S. The Gram norm N is accepted where
//   gamma S^2 <= 2^-8 N^2  and  1.01 T u S <= 2^-10 N,
// so the added gradient has norm <= N (1 + 2^-9 + 2^-10) <= N (1 + kGramSlack); otherwise the norm is
// measured from the product itself. Products that leave the range of f32 at its small end are lost whatever u
// says: at most e_x = 2 d 2^-126 per entry of x x^T and e_g = 2 p 2^-126 per entry of g g^T, also where the
// processor flushes subnormal numbers. They enter S as |x_t| <= (x_t . x_t + e_x)^(1/2), and the squared
// norm's error as
//   e_g (sum_t |x_t|)^2 + e_x (sum_t |g_t|)^2 + T^2 e_x e_g.
// A tied table's cross term 2 <E, Z^T h> is taken from the rows of the distinct ids, with
// error at most 2.02 T u |E| S, added to the first condition.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/blas.h"
#include "kernels/compute_type.h"
#include "kernels/example_gradient.h"
#include "kernels/gemm.h"
#include "kernels/norm_route.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kTile = 64;
constexpr int64_t kDepth = 256;

template <typename T>
using SumOf = typename blas::SumOf<T>::type;

// tile (rows, columns) = a[first, first + rows) a[0, columns)^T, the depth cut into chunks of kDepth.
template <typename T>
void gram_tile(const T* a, int64_t depth, int64_t first, int64_t rows, int64_t columns, SumOf<T>* tile) {
  for (int64_t k = 0; k < depth; k += kDepth)
    blas::gemm<T>(rows, columns, std::min(kDepth, depth - k), {a + first * depth + k, depth, false},
                  {a + k, depth, true}, k == 0 ? 0.0 : 1.0, tile, columns);
}

struct GramNorm {
  double squared = 0;    // sum over t, t' of (x_t . x_t') (g_t . g_t')
  double magnitude = 0;  // S
  double underflow = 0;  // error of `squared` from products below the range of the type
};

template <typename T>
GramNorm gram_norm(const LinearRecord& linear, int64_t example, int64_t tokens) {
  const int64_t d = linear.input.size(1), p = linear.output_gradient.size(1);
  const T* x = linear.input.const_data_ptr<T>() + example * tokens * d;
  const T* g = linear.output_gradient.const_data_ptr<T>() + example * tokens * p;
  std::vector<SumOf<T>> xs(kTile * tokens), gs(kTile * tokens);
  GramNorm result;
  const double smallest = static_cast<double>(std::numeric_limits<SumOf<T>>::min());
  const double lost_x = 2 * static_cast<double>(d) * smallest, lost_g = 2 * static_cast<double>(p) * smallest;
  double sum_x = 0, sum_g = 0;
  for (int64_t i = 0; i < tokens; i += kTile) {
    const int64_t rows = std::min(kTile, tokens - i), columns = i + rows;
    gram_tile(x, d, i, rows, columns, xs.data());
    gram_tile(g, p, i, rows, columns, gs.data());
    for (int64_t r = 0; r < rows; ++r) {
      double below = 0, diagonal = 0;  // columns before the tile count twice: (t, t') and (t', t)
      const SumOf<T>*a = xs.data() + r * columns, *b = gs.data() + r * columns;
      for (int64_t c = 0; c < i; ++c) below += static_cast<double>(a[c]) * static_cast<double>(b[c]);
      for (int64_t c = i; c < columns; ++c) diagonal += static_cast<double>(a[c]) * static_cast<double>(b[c]);
      result.squared += 2 * below + diagonal;
      const double norm_x = std::sqrt(std::max(0.0, static_cast<double>(a[i + r])) + lost_x);
      const double norm_g = std::sqrt(std::max(0.0, static_cast<double>(b[i + r])) + lost_g);
      result.magnitude += norm_x * norm_g;
      sum_x += norm_x;
      sum_g += norm_g;
    }
  }
  const double entries = static_cast<double>(tokens) * static_cast<double>(tokens);
  result.underflow = lost_g * sum_x * sum_x + lost_x * sum_g * sum_g + entries * lost_x * lost_g;
  return result;
}

class GramRoute final : public NormRoute {
 public:
  void accumulate(const GradientRecords& records, std::span<const uint8_t> selected, double max_grad_norm,
                  ContributionSink& sink, std::span<ExampleOutcome> outcomes) override {
    with_compute_type(records.linears.front().input.scalar_type(),
                      [&]<typename T>() { run<T>(records, selected, max_grad_norm, sink, outcomes); });
  }

 private:
  // bf16 operands, f32 sums: the product is not rounded to bf16 here, so the error bound above holds.
  template <typename T>
  static void product(const GradientRecords& records, const Panel& panel, int64_t b,
                      const ScatteredRows<T>* rows, SumOf<T>* out) {
    const auto& linear = records.linears[panel.linear];
    const int64_t tokens = records.tokens, width = linear.columns(), stride = linear.rows();
    const T* left = linear.row_operand().const_data_ptr<T>() + b * tokens * stride + panel.row;
    const T* right = linear.column_operand().const_data_ptr<T>() + b * tokens * width + panel.column;
    if constexpr (std::is_same_v<T, float>)
      multiply_transposed_tile(panel.rows, panel.columns, tokens, left, stride, right, width, false, out,
                               panel.columns);
    else
      blas::gemm<T>(panel.rows, panel.columns, tokens, {left, stride, true}, {right, width, false}, 0, out,
                    panel.columns);
    if (rows == nullptr || !records.embedding || records.embedding->tied_head != panel.linear) return;
    auto id = std::lower_bound(rows->ids.begin(), rows->ids.end(), panel.row);
    for (; id != rows->ids.end() && *id < panel.row + panel.rows; ++id)
      for (int64_t c = 0; c < panel.columns; ++c)
        out[(*id - panel.row) * panel.columns + c] +=
            static_cast<SumOf<T>>(rows->rows[(id - rows->ids.begin()) * width + panel.column + c]);
  }

  // Squared norm of one matrix (a tied table with its scattered rows), from the gradient itself.
  template <typename T>
  static double direct_norm_squared(const GradientRecords& records, const std::vector<Panel>& panels,
                                    size_t linear, int64_t b, const ScatteredRows<T>& rows) {
    double total = 0;
    std::vector<SumOf<T>> scratch;
    for (const Panel& panel : panels) {
      if (panel.linear != linear) continue;
      scratch.resize(panel.elements());
      product<T>(records, panel, b, &rows, scratch.data());
      total += sum_of_squares(std::span<const SumOf<T>>(scratch));
    }
    return total;
  }

  // <E, Z^T h> over the rows of the distinct ids.
  template <typename T>
  static double cross_term(const LinearRecord& head, int64_t b, int64_t tokens,
                           const ScatteredRows<T>& rows) {
    const int64_t width = head.input.size(1), vocab = head.output_gradient.size(1);
    const int64_t ids = static_cast<int64_t>(rows.ids.size());
    const T* z = head.output_gradient.const_data_ptr<T>() + b * tokens * vocab;
    const T* h = head.input.const_data_ptr<T>() + b * tokens * width;
    std::vector<T> columns(tokens * ids);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t u = 0; u < ids; ++u) columns[t * ids + u] = z[t * vocab + rows.ids[u]];
    std::vector<SumOf<T>> table(ids * width);
    blas::gemm<T>(ids, width, tokens, {columns.data(), ids, true}, {h, width, false}, 0, table.data(), width);
    double sum = 0;
    for (int64_t i = 0; i < ids * width; ++i)
      sum += static_cast<double>(table[i]) * static_cast<double>(rows.rows[i]);
    return sum;
  }

  template <typename T>
  static double matrix_norm_squared(const GradientRecords& records, const std::vector<Panel>& panels,
                                    size_t k, int64_t b, const ScatteredRows<T>& rows) {
    const auto& linear = records.linears[k];
    const double unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
    const double d = static_cast<double>(linear.input.size(1)),
                 p = static_cast<double>(linear.output_gradient.size(1));
    const GramNorm gram = gram_norm<T>(linear, b, records.tokens);
    double squared = gram.squared;
    double error =
        1.01 * (2 * kDepth + (d + p) / kDepth + 4) * unit * gram.magnitude * gram.magnitude + gram.underflow;
    const double product_error = 1.01 * static_cast<double>(records.tokens) * unit * gram.magnitude;
    if (records.embedding && records.embedding->tied_head == k) {
      const double rows_squared = sum_of_squares(std::span<const T>(rows.rows));
      squared += rows_squared;
      if (!DPFA_PLANT("tied_norm_no_cross")) squared += 2 * cross_term<T>(linear, b, records.tokens, rows);
      error += 2 * product_error * std::sqrt(rows_squared);
    }
    const bool certified =
        error <= 0x1p-8 * squared && product_error <= 0x1p-10 * std::sqrt(std::max(0.0, squared));
    if (certified || DPFA_PLANT("tied_norm_no_cross")) return squared;
    return direct_norm_squared<T>(records, panels, k, b, rows);
  }

  template <typename T>
  void run(const GradientRecords& records, std::span<const uint8_t> selected, double max_grad_norm,
           ContributionSink& sink, std::span<ExampleOutcome> outcomes) {
    const std::vector<Panel> panels = split_into_panels(records);
    const int64_t examples = records.examples, matrices = static_cast<int64_t>(records.linears.size());
    std::vector<ScatteredRows<T>> rows(examples);
    std::vector<double> squares(examples * matrices);
#pragma omp parallel
    {
      c10::InferenceMode guard;
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < examples; ++b)
        if (selected[b]) rows[b] = scatter_rows<T>(records, b);
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < examples * matrices; ++task)
        if (selected[task % examples])
          squares[task] = matrix_norm_squared<T>(records, panels, task / examples, task % examples,
                                                 rows[task % examples]);
    }
    for (int64_t b = 0; b < examples; ++b) {
      outcomes[b] = {};
      if (!selected[b]) continue;
      double total = small_parts_norm_squared<T>(records, b, rows[b]);
      for (int64_t k = 0; k < matrices; ++k) total += squares[k * examples + b];
      outcomes[b].norm = std::sqrt(total);
      outcomes[b].factor = clip_factor(outcomes[b].norm, max_grad_norm);
      if (outcomes[b].factor > 0) add_small_parts<T>(records, b, rows[b], outcomes[b].factor, sink);
    }
#pragma omp parallel
    {
      c10::InferenceMode guard;
      std::vector<SumOf<T>> scratch;
#pragma omp for schedule(dynamic, 1)
      for (int64_t j = 0; j < static_cast<int64_t>(panels.size()); ++j) {
        scratch.resize(panels[j].elements());
        for (int64_t b = 0; b < examples; ++b) {
          if (!(outcomes[b].factor > 0)) continue;
          product<T>(records, panels[j], b, &rows[b], scratch.data());
          add_panel(records, panels[j], std::span<const SumOf<T>>(scratch), outcomes[b].factor, sink);
        }
      }
    }
  }
};

}  // namespace

std::unique_ptr<NormRoute> make_gram_route() { return std::make_unique<GramRoute>(); }

}  // namespace dpfa::kernels
