// The two consumers of a backward pass: records for the per-example routes, and the plain sum of a batch.
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/reducers.h"
#include "src/model/gpt2.h"

namespace dpfa::model {
namespace {

class RecordCollector final : public GradientVisitor {
 public:
  RecordCollector(int64_t examples, int64_t tokens) {
    records.examples = examples;
    records.tokens = tokens;
  }
  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    records.linears.push_back(record);
    if (bias_offset)
      records.vectors.push_back(
          {kernels::bias_gradient(record.output_gradient, records.examples), *bias_offset});
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    auto [gain, shift] = kernels::layer_norm_gradient(g, x, mean, rstd, records.examples);
    records.vectors.push_back({gain, gain_offset});
    records.vectors.push_back({shift, shift_offset});
  }
  void embedding(const kernels::EmbeddingRecord& record) override { records.embedding = record; }

  kernels::GradientRecords records;
};

class BatchGradient final : public GradientVisitor {
 public:
  BatchGradient(bool overwrite, std::span<float> gradient, int64_t tokens, const plan::Gpt2Shape& shape)
      : overwrite_(overwrite),
        tokens_(tokens),
        shape_(shape),
        gradient_(at::from_blob(gradient.data(), {static_cast<int64_t>(gradient.size())},
                                at::TensorOptions().dtype(at::kFloat))) {}

  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    const int64_t rows = record.rows(), columns = record.columns();
    at::Tensor target = gradient_.narrow(0, record.offset, rows * columns).view({rows, columns});
    const at::Tensor &left = record.row_operand(), &right = record.column_operand();
    if (record.input.scalar_type() == at::kFloat)
      kernels::multiply_transposed(left, right, !overwrite_, target);
    else
      add(target, at::mm(left.t(), right));
    if (bias_offset) add_vector(kernels::bias_gradient(record.output_gradient, 1), *bias_offset);
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    const auto [gain, shift] = kernels::layer_norm_gradient(g, x, mean, rstd, 1);
    add_vector(gain, gain_offset);
    add_vector(shift, shift_offset);
  }
  void embedding(const kernels::EmbeddingRecord& record) override {
    const int64_t width = shape_.width;
    const at::Tensor rows = record.row_gradient.to(at::kFloat);
    float* table = gradient_.data_ptr<float>() + record.token_offset;
    if (overwrite_) {  // rows that this batch does not touch; a tied head has written the whole token table
      gradient_.narrow(0, record.position_offset, shape_.positions * width).zero_();
      if (!record.tied_head) gradient_.narrow(0, record.token_offset, shape_.vocab * width).zero_();
    }
    gradient_.narrow(0, record.position_offset, tokens_ * width)
        .view({tokens_, width})
        .add_(rows.view({-1, tokens_, width}).sum(0));
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

  bool overwrite_;
  int64_t tokens_;
  plan::Gpt2Shape shape_;
  at::Tensor gradient_;
};

}  // namespace

kernels::GradientRecords collect_records(Gpt2& model, const Batch& batch) {
  c10::InferenceMode guard;
  RecordCollector collector(batch.examples, batch.tokens);
  model.backward(batch.input_ids, /*keep_gradients=*/true, collector);
  return std::move(collector.records);
}

void add_batch_gradient(Gpt2& model, const Batch& batch, bool overwrite, std::span<float> gradient) {
  c10::InferenceMode guard;
  BatchGradient sum(overwrite, gradient, batch.tokens, model.shape());
  model.backward(batch.input_ids, /*keep_gradients=*/false, sum);
}

}  // namespace dpfa::model
