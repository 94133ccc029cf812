// The two consumers of a backward pass: records for the per-example routes, and the plain sum of a batch.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>

#include "kernels/compute_type.h"
#include "kernels/example_gradient.h"
#include "kernels/gemm.h"
#include "kernels/reducers.h"
#include "src/base/check.h"
#include "src/model/gpt2.h"

namespace dpfa::model {
namespace {

class RecordCollector final : public GradientVisitor {
 public:
  explicit RecordCollector(std::span<const int64_t> offsets) {
    records.offsets.assign(offsets.begin(), offsets.end());
  }
  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    records.linears.push_back(record);
    if (bias_offset)
      records.vectors.push_back(
          {kernels::bias_gradient(record.output_gradient, records.offsets), *bias_offset});
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    auto [gain, shift] = kernels::layer_norm_gradient(g, x, mean, rstd, records.offsets);
    records.vectors.push_back({gain, gain_offset});
    records.vectors.push_back({shift, shift_offset});
  }
  void embedding(const kernels::EmbeddingRecord& record) override { records.embeddings.push_back(record); }

  kernels::GradientRecords records;
};

// The same records, each given away while its tensors are valid. A tied head waits for the embedding, whose
// gradient it shares: its tensors last as long as the pass.
class RecordStream final : public GradientVisitor {
 public:
  RecordStream(std::span<const int64_t> offsets, const RecordVisitor& visit)
      : offsets_(offsets.begin(), offsets.end()), visit_(visit) {}
  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    kernels::GradientRecords records = none();
    records.linears.push_back(record);
    if (bias_offset)
      records.vectors.push_back({kernels::bias_gradient(record.output_gradient, offsets_), *bias_offset});
    if (head_)
      visit_(records);
    else
      head_ = std::move(records);
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    kernels::GradientRecords records = none();
    auto [gain, shift] = kernels::layer_norm_gradient(g, x, mean, rstd, offsets_);
    records.vectors.push_back({gain, gain_offset});
    records.vectors.push_back({shift, shift_offset});
    visit_(records);
  }
  void embedding(const kernels::EmbeddingRecord& record) override {
    // With a second table the head would be visited twice, which measures other squares than it adds.
    DPFA_CHECK(head_ && head_->embeddings.empty(), "a stream of records has one embedding, after the head");
    head_->embeddings.push_back(record);
    visit_(*head_);
  }

 private:
  kernels::GradientRecords none() const {
    kernels::GradientRecords records;
    records.offsets = offsets_;
    return records;
  }
  std::vector<int64_t> offsets_;
  RecordVisitor visit_;
  std::optional<kernels::GradientRecords> head_;  // the first that a backward pass visits
};

class BatchGradient final : public GradientVisitor {
 public:
  BatchGradient(bool overwrite, BatchProducts products, std::span<float> gradient,
                std::span<const int64_t> offsets, const plan::Gpt2Shape& shape)
      : overwrite_(overwrite),
        products_(products),
        offsets_(offsets),
        all_rows_{0, offsets.back()},
        shape_(shape),
        gradient_(at::from_blob(gradient.data(), {static_cast<int64_t>(gradient.size())},
                                at::TensorOptions().dtype(at::kFloat))) {}

  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    const int64_t rows = record.rows(), columns = record.columns();
    at::Tensor target = gradient_.narrow(0, record.offset, rows * columns).view({rows, columns});
    const at::Tensor &left = record.row_operand(), &right = record.column_operand();
    if (products_ == BatchProducts::kPanels)
      kernels::with_compute_type(record.input.scalar_type(), [&]<typename T>() { add_panels<T>(record); });
    else if (record.input.scalar_type() == at::kFloat)
      kernels::multiply_transposed(left, right, !overwrite_, target);
    else
      add(target, at::mm(left.t(), right));
    if (bias_offset) add_vector(kernels::bias_gradient(record.output_gradient, all_rows_), *bias_offset);
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    const auto [gain, shift] = kernels::layer_norm_gradient(g, x, mean, rstd, all_rows_);
    add_vector(gain, gain_offset);
    add_vector(shift, shift_offset);
  }
  void embedding(const kernels::EmbeddingRecord& record) override {
    const int64_t width = shape_.width;
    const at::Tensor rows = record.row_gradient.to(at::kFloat);
    float* table = gradient_.data_ptr<float>() + record.token_offset;
    if (overwrite_) {  // rows that this batch does not touch; a tied head has written the whole token table
      gradient_.narrow(0, record.position_offset.value(), shape_.positions * width).zero_();
      if (!record.tied_head) gradient_.narrow(0, record.token_offset, shape_.vocab * width).zero_();
    }
    for (size_t b = 0; b + 1 < offsets_.size(); ++b) {
      const int64_t length = offsets_[b + 1] - offsets_[b];
      gradient_.narrow(0, record.position_offset.value(), length * width)
          .add_(rows.narrow(0, offsets_[b], length).view({length * width}));
    }
    // Ids of one batch may repeat, so rows are added in order, each thread owning a slice of the columns.
    const float* source = rows.const_data_ptr<float>();
    constexpr int64_t kSlice = 64;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < width; first += kSlice)
      for (int64_t i = 0; i < rows.size(0); ++i)
        for (int64_t c = first; c < std::min(width, first + kSlice); ++c)
          table[record.ids[i] * width + c] += source[i * width + c];
  }

 private:
  void add(at::Tensor target, const at::Tensor& value) const {
    overwrite_ ? static_cast<void>(target.copy_(value)) : static_cast<void>(target.add_(value));
  }
  void add_vector(const at::Tensor& per_example, int64_t offset) const {
    add(gradient_.narrow(0, offset, per_example.size(1)), per_example[0]);
  }

  template <typename T>
  void add_panels(const kernels::LinearRecord& record) const {
    kernels::GradientRecords batch;
    batch.offsets.assign(all_rows_.begin(), all_rows_.end());
    batch.linears.push_back(record);
    const std::vector<kernels::Panel> panels =
        kernels::split_into_panels(batch, c10::CppTypeToScalarType<T>::value);
    float* matrix = gradient_.data_ptr<float>() + record.offset;
#pragma omp parallel
    {
      c10::InferenceMode guard;
      std::vector<T> values;
#pragma omp for schedule(dynamic, 1)
      for (const kernels::Panel& panel : panels) {
        values.resize(static_cast<size_t>(panel.elements()));
        kernels::panel_gradient<T>(batch, panel, 0, nullptr, values.data());
        for (int64_t r = 0; r < panel.rows; ++r) {
          float* row = matrix + (panel.row + r) * record.columns() + panel.column;
          const T* from = values.data() + r * panel.columns;
          for (int64_t c = 0; c < panel.columns; ++c)
            row[c] = (overwrite_ ? 0 : row[c]) + static_cast<float>(from[c]);
        }
      }
    }
  }

  bool overwrite_;
  BatchProducts products_;
  std::span<const int64_t> offsets_;
  std::array<int64_t, 2> all_rows_;  // the batch as one example
  plan::Gpt2Shape shape_;
  at::Tensor gradient_;
};

}  // namespace

kernels::GradientRecords collect_records(Gpt2& model) {
  c10::InferenceMode guard;
  RecordCollector collector(model.offsets());
  model.backward(/*keep_gradients=*/true, collector);
  return std::move(collector.records);
}

void visit_records(Gpt2& model, const RecordVisitor& visit) {
  c10::InferenceMode guard;
  RecordStream stream(model.offsets(), visit);
  model.backward(/*keep_gradients=*/false, stream);
}

void add_batch_gradient(Gpt2& model, bool overwrite, std::span<float> gradient, BatchProducts products) {
  c10::InferenceMode guard;
  BatchGradient sum(overwrite, products, gradient, model.offsets(), model.shape());
  model.backward(/*keep_gradients=*/false, sum);
}

}  // namespace dpfa::model
