#include "kernels/example_gradient.h"

#include <algorithm>
#include <numeric>

#include "kernels/blas.h"
#include "kernels/gemm.h"
#include "kernels/lane_sums.h"
#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

// A panel stays in the second-level cache between the product and the sums. f32: a tile of
// multiply_transposed_tile. Otherwise at::mm forms it, which wants more rows at a time.
constexpr int64_t kPanelElements = 393216;
constexpr int64_t kPanelRowMultiple = 16;

// The rows and columns of a panel of a (rows, columns) matrix.
std::pair<int64_t, int64_t> panel_shape(at::ScalarType product, int64_t columns) {
  if (product != at::kFloat)
    return {std::max(kPanelRowMultiple, kPanelElements / columns / kPanelRowMultiple * kPanelRowMultiple),
            columns};
  const int64_t parts = (columns + kTileColumns - 1) / kTileColumns;
  return {kTileRows, (columns + parts - 1) / parts};
}

template <typename T>
std::span<const T> vector_of(const VectorRecord& record, int64_t example) {
  const int64_t n = record.per_example.size(1);
  return {record.per_example.const_data_ptr<T>() + example * n, static_cast<size_t>(n)};
}

// The row gradients of one example: of a position table its first length(example) rows.
template <typename T>
std::span<const T> row_gradients_of(const GradientRecords& records, const EmbeddingRecord& embedding,
                                    int64_t example) {
  const at::Tensor& rows = embedding.row_gradient;
  return {rows.const_data_ptr<T>() + records.begin(example) * rows.size(1),
          static_cast<size_t>(records.length(example) * rows.size(1))};
}

// Two records of one table would be measured apart and added to the same rows.
void refuse_shared_tables(const GradientRecords& records) {
  for (size_t e = 0; e < records.embeddings.size(); ++e)
    for (size_t other = 0; other < e; ++other) {
      const EmbeddingRecord &one = records.embeddings[e], &two = records.embeddings[other];
      DPFA_CHECK(one.token_offset != two.token_offset &&
                     !(one.position_offset && one.position_offset == two.position_offset) &&
                     !(one.tied_head && one.tied_head == two.tied_head),
                 "two embeddings of one table");
    }
}

}  // namespace

std::vector<Panel> split_into_panels(const GradientRecords& records, at::ScalarType product) {
  refuse_shared_tables(records);
  std::vector<Panel> panels;
  for (size_t k = 0; k < records.linears.size(); ++k) {
    const auto& linear = records.linears[k];
    const auto [rows, columns] = panel_shape(product, linear.columns());
    for (int64_t row = 0; row < linear.rows(); row += rows)
      for (int64_t column = 0; column < linear.columns(); column += columns)
        panels.push_back({k, row, std::min(rows, linear.rows() - row), column,
                          std::min(columns, linear.columns() - column)});
  }
  return panels;
}

namespace {

template <typename T>
ScatteredRows<T> rows_of_table(const GradientRecords& records, const EmbeddingRecord& embedding,
                               int64_t example, bool every_position) {
  ScatteredRows<T> result;
  const int64_t tokens = records.length(example), width = embedding.row_gradient.size(1);
  const int64_t* ids = embedding.ids.data() + records.begin(example);
  const std::span<const T> gradient = row_gradients_of<T>(records, embedding, example);
  std::vector<int64_t> order(tokens);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });

  using Sum = typename blas::SumOf<T>::type;
  std::vector<Sum> row(width);
  for (int64_t k = 0; k < tokens;) {
    const int64_t id = ids[order[k]], first = k;
    std::fill(row.begin(), row.end(), Sum{0});
    for (; k < tokens && ids[order[k]] == id; ++k)
      for (int64_t c = 0; c < width; ++c) row[c] += static_cast<Sum>(gradient[order[k] * width + c]);
    result.ids.push_back(id);
    result.rows.insert(result.rows.end(), row.begin(), row.end());
    if (!every_position) continue;
    result.ids.resize(k, id);
    result.rows.insert(result.rows.end(), (k - first - 1) * width, T{});
  }
  return result;
}

}  // namespace

template <typename T>
TableRows<T> scatter_rows(const GradientRecords& records, int64_t example, bool every_position) {
  TableRows<T> result;
  for (const EmbeddingRecord& embedding : records.embeddings)
    result.push_back(rows_of_table<T>(records, embedding, example, every_position));
  return result;
}

template <typename T>
void panel_gradient(const GradientRecords& records, const Panel& panel, int64_t example,
                    const TableRows<T>* rows, T* out) {
  const auto& linear = records.linears[panel.linear];
  const int64_t begin = records.begin(example), tokens = records.length(example);
  const at::Tensor &left = linear.row_operand(), &right = linear.column_operand();
  if constexpr (std::is_same_v<T, float>) {
    multiply_transposed_tile(panel.rows, panel.columns, tokens,
                             left.const_data_ptr<T>() + begin * linear.rows() + panel.row, linear.rows(),
                             right.const_data_ptr<T>() + begin * linear.columns() + panel.column,
                             linear.columns(), /*accumulate=*/false, out, panel.columns);
  } else {
    auto target = at::from_blob(out, {panel.rows, panel.columns}, left.options());
    at::mm_out(target, left.narrow(0, begin, tokens).narrow(1, panel.row, panel.rows).t(),
               right.narrow(0, begin, tokens).narrow(1, panel.column, panel.columns));
  }

  const std::optional<size_t> tied = records.embedding_tied_to(panel.linear);
  if (rows == nullptr || !tied) return;
  const ScatteredRows<T>& table = (*rows)[*tied];
  const auto first = std::lower_bound(table.ids.begin(), table.ids.end(), panel.row);
  for (auto id = first; id != table.ids.end() && *id < panel.row + panel.rows; ++id) {
    const T* row = table.rows.data() + (id - table.ids.begin()) * linear.columns() + panel.column;
    T* target_row = out + (*id - panel.row) * panel.columns;
    for (int64_t c = 0; c < panel.columns; ++c) target_row[c] = static_cast<T>(target_row[c] + row[c]);
  }
}

template <typename T>
double small_parts_norm_squared(const GradientRecords& records, int64_t example, const TableRows<T>& rows) {
  using Sum = typename blas::SumOf<T>::type;
  double sum = 0;
  for (const auto& vector : records.vectors) {
    if (DPFA_PLANT("bias_missing")) continue;
    sum += sum_of_squares(vector_of<Sum>(vector, example));
  }
  for (size_t e = 0; e < records.embeddings.size(); ++e) {
    const EmbeddingRecord& embedding = records.embeddings[e];
    if (embedding.position_offset) sum += sum_of_squares(row_gradients_of<T>(records, embedding, example));
    if (!embedding.tied_head) sum += sum_of_squares(std::span<const T>(rows[e].rows));
  }
  return sum;
}

template <typename T>
void add_small_parts(const GradientRecords& records, int64_t example, const TableRows<T>& rows, double factor,
                     ContributionSink& sink) {
  using Sum = typename blas::SumOf<T>::type;
  for (const auto& vector : records.vectors) sink.add(vector.offset, vector_of<Sum>(vector, example), factor);
  for (size_t e = 0; e < records.embeddings.size(); ++e) {
    const EmbeddingRecord& embedding = records.embeddings[e];
    if (embedding.position_offset)
      sink.add(*embedding.position_offset, row_gradients_of<T>(records, embedding, example), factor);
    if (embedding.tied_head) continue;
    const auto& [ids, values] = rows[e];
    const int64_t width = embedding.row_gradient.size(1);
    for (size_t u = 0; u < ids.size(); ++u)
      sink.add(embedding.token_offset + ids[u] * width,
               std::span<const T>(values.data() + u * width, static_cast<size_t>(width)), factor);
  }
}

#define DPFA_INSTANTIATE(T)                                                                                \
  template TableRows<T> scatter_rows<T>(const GradientRecords&, int64_t, bool);                            \
  template void panel_gradient<T>(const GradientRecords&, const Panel&, int64_t, const TableRows<T>*, T*); \
  template double small_parts_norm_squared<T>(const GradientRecords&, int64_t, const TableRows<T>&);       \
  template void add_small_parts<T>(const GradientRecords&, int64_t, const TableRows<T>&, double,           \
                                   ContributionSink&);
DPFA_INSTANTIATE(float)
DPFA_INSTANTIATE(c10::BFloat16)
DPFA_INSTANTIATE(double)
#undef DPFA_INSTANTIATE

}  // namespace dpfa::kernels
