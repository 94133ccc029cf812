#include "src/device/batch_step.h"

#include <c10/core/InferenceMode.h>

#include "src/device/upload.h"

namespace dpfa::device {
namespace {

class BatchGradient final : public model::GradientVisitor {
 public:
  BatchGradient(const Gpt2& model, bool overwrite, at::Tensor& gradient)
      : model_(model), overwrite_(overwrite), gradient_(gradient) {}

  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    const at::Tensor &left = record.row_operand(), &right = record.column_operand();
    at::Tensor target = part(record.offset, left.size(1) * right.size(1)).view({left.size(1), right.size(1)});
    if (left.scalar_type() != at::kFloat)
      put(target, at::mm(left.t(), right));
    else if (overwrite_)
      at::mm_out(target, left.t(), right);
    else
      target.addmm_(left.t(), right);
    if (bias_offset) put_sum(record.output_gradient, *bias_offset);
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    put_sum(x.sub(mean.unsqueeze(1)).mul_(rstd.unsqueeze(1)).mul_(g), gain_offset);
    put_sum(g, shift_offset);
  }
  void embedding(const kernels::EmbeddingRecord& record) override {
    const at::Tensor g = record.row_gradient.to(at::kFloat);
    const int64_t width = g.size(1), vocab = model_.shape().vocab, positions = model_.shape().positions;
    at::Tensor tokens = part(record.token_offset, vocab * width).view({vocab, width});
    at::Tensor table = part(record.position_offset.value(), positions * width).view({positions, width});
    if (overwrite_) table.zero_();
    if (overwrite_ && !record.tied_head) tokens.zero_();  // a tied head has written the whole table
    tokens.index_add_(0, upload(record.ids, g.device()), g);
    const std::span<const int64_t> offsets = model_.offsets();
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      const int64_t length = offsets[b + 1] - offsets[b];
      table.narrow(0, 0, length).add_(g.narrow(0, offsets[b], length));
    }
  }

 private:
  at::Tensor part(int64_t offset, int64_t size) const { return gradient_.narrow(0, offset, size); }
  void put(at::Tensor target, const at::Tensor& value) const {
    overwrite_ ? target.copy_(value) : target.add_(value);
  }
  void put_sum(const at::Tensor& rows, int64_t offset) const {
    put(part(offset, rows.size(1)), rows.sum(0, /*keepdim=*/false, at::kFloat));
  }

  const Gpt2& model_;
  bool overwrite_;
  at::Tensor gradient_;
};

}  // namespace

BatchStep::BatchStep(Gpt2& model, Parameters& parameters)
    : model_(model),
      parameters_(parameters),
      decay_(model::decay_ranges(model::gpt2_parameters(model.shape()))),
      gradient_(at::zeros_like(parameters.weights)) {}

void BatchStep::accumulate(const model::Batch& batch) {
  c10::InferenceMode guard;
  model_.forward(batch, /*for_backward=*/true);
  if (model_.offsets().back() == 0) return;
  BatchGradient visitor(model_, is_empty_, gradient_);
  model_.backward(visitor);
  is_empty_ = false;
}

void BatchStep::update(const kernels::AdamwStep& step, double divisor) {
  c10::InferenceMode guard;
  if (is_empty_) gradient_.zero_();
  gradient_.div_(divisor);
  const at::Tensor number = at::full({}, static_cast<double>(step.step), parameters_.weights.options());
  for (const bool decays : {true, false}) {
    std::vector<at::Tensor> weights, gradients, m, v, numbers;
    for (const kernels::DecayRange& range : decay_) {
      if (range.decays != decays || range.begin == range.end) continue;
      const auto part = [&](const at::Tensor& all) {
        return all.narrow(0, range.begin, range.end - range.begin);
      };
      weights.push_back(part(parameters_.weights));
      gradients.push_back(part(gradient_));
      m.push_back(part(parameters_.m));
      v.push_back(part(parameters_.v));
      numbers.push_back(number);
    }
    at::_fused_adamw_(weights, gradients, m, v, /*max_exp_avg_sqs=*/{}, numbers, step.learning_rate,
                      step.beta1, step.beta2, decays ? step.weight_decay : 0.0, step.epsilon,
                      /*amsgrad=*/false,
                      /*maximize=*/false);
  }
  is_empty_ = true;
  if (!parameters_.compute.is_alias_of(parameters_.weights)) parameters_.compute.copy_(parameters_.weights);
}

}  // namespace dpfa::device
