// Pieces of one example's gradient, formed on demand from the records of a backward pass.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kernels/contribution_sink.h"
#include "kernels/records.h"
#include "src/base/plant.h"

namespace dpfa::kernels {

// What a part of a norm is until it is measured: a part that was left out gives the factor 0.
inline constexpr double kUnmeasured = std::numeric_limits<double>::quiet_NaN();

// Rows [row, row + rows) and columns [column, column + columns) of the matrix of linears[linear]: the unit of
// parallel work. The split depends on the shapes and the compute type alone, hence so does every order of
// summation.
struct Panel {
  size_t linear;
  int64_t row, rows;
  int64_t column, columns;

  int64_t elements() const { return rows * columns; }
};
// `product`: the type of the panels, whose size the second-level cache bounds. Every route begins here:
// throws InternalError where two embeddings are of one table.
std::vector<Panel> split_into_panels(const GradientRecords& records, at::ScalarType product);

// Adds factor x values (panel.rows, panel.columns) to the sink where the panel lies in the flat parameter
// vector.
template <typename T>
void add_panel(const GradientRecords& records, const Panel& panel, std::span<const T> values, double factor,
               ContributionSink& sink) {
  const LinearRecord& linear = records.linears[panel.linear];
  const int64_t stride = linear.columns();
  const int64_t column = DPFA_PLANT("panel_column_forgotten") ? 0 : panel.column;
  const int64_t first = linear.offset + panel.row * stride + column;
  if (panel.columns == stride) return sink.add(first, values, factor);
  for (int64_t r = 0; r < panel.rows; ++r)
    sink.add(first + r * stride, values.subspan(r * panel.columns, panel.columns), factor);
}

// The gradient of one example of an embedding's token table: the rows of distinct ids, ascending, each summed
// over its occurrences in order. T is the compute type of the records; sums run in f32 (f64 for f64).
// every_position: an id comes as often as in the example, with rows of zeros behind its first, so that U is
// the number of positions however many of their tokens are equal.
template <typename T>
struct ScatteredRows {
  std::vector<int64_t> ids;  // (U)
  std::vector<T> rows;       // (U, C)
};
// One for each of records.embeddings.
template <typename T>
using TableRows = std::vector<ScatteredRows<T>>;
template <typename T>
TableRows<T> scatter_rows(const GradientRecords& records, int64_t example, bool every_position = false);

// out (panel.rows, panel.columns), compute type T: the panel of example b's gradient. Where the matrix is a
// tied token table its rows are added, unless `rows` is null.
template <typename T>
void panel_gradient(const GradientRecords& records, const Panel& panel, int64_t example,
                    const TableRows<T>* rows, T* out);

// The parts that are small: vector parameters, position rows, and token rows of tables that are not tied.
template <typename T>
double small_parts_norm_squared(const GradientRecords& records, int64_t example, const TableRows<T>& rows);
template <typename T>
void add_small_parts(const GradientRecords& records, int64_t example, const TableRows<T>& rows, double factor,
                     ContributionSink& sink);

}  // namespace dpfa::kernels
