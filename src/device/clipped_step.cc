#include "src/device/clipped_step.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/norm_route.h"
#include "src/base/check.h"
#include "src/base/plant.h"
#include "src/device/upload.h"

namespace dpfa::device {
namespace {

constexpr int64_t kFlushEvery = kernels::kContributionsIn32Bits;

int64_t stride_of(const at::Tensor& rows) {
  DPFA_CHECK(rows.dim() == 2 && rows.stride(1) == 1);
  return rows.stride(0);
}

const void* contiguous(const at::Tensor& rows) {
  DPFA_CHECK(rows.is_contiguous());
  return rows.const_data_ptr();
}

}  // namespace

kernels::Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return kernels::Element::kBFloat16;
    case at::kFloat:
      return kernels::Element::kFloat;
    default:
      DPFA_CHECK(type == at::kDouble, c10::toString(type));
      return kernels::Element::kDouble;
  }
}

Parameters::Parameters(std::span<const float> initial, at::ScalarType type, at::Device device)
    : weights(upload(initial, device)),
      m(at::zeros_like(weights)),
      v(at::zeros_like(weights)),
      compute(type == at::kFloat ? weights : weights.to(type)) {}

// One backward pass over a microbatch. As a visitor it reduces vectors while their rows exist and keeps the
// matrices' operands; where the model recomputes its layers, until the part that they belong to is complete.
class ClippedStep::Pass final : public model::GradientVisitor {
 public:
  Pass(ClippedStep& step, const model::Batch& batch, const Methods& methods, const at::Tensor& selected)
      : step_(step),
        kernels_(step.kernels_),
        methods_(methods),
        selected_(selected),
        tokens_(batch.tokens),
        examples_(batch.examples),
        parts_(unmeasured(kPartsOfLayer * step.model_.shape().layers + kPartsOfEnds)) {
    kernels_.set_examples(step.model_.offsets(), step.model_.ids());
  }

  void linear(const kernels::LinearRecord& record, std::optional<int64_t> bias_offset) override {
    linears_.push_back(record);
    if (!bias_offset) return;
    const at::Tensor& g = record.output_gradient;
    kernels_.bias_gradient(contiguous(g), g.size(1), add_vector(g, *bias_offset));
  }
  void layer_norm(const at::Tensor& g, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                  int64_t gain_offset, int64_t shift_offset) override {
    const at::Tensor means = mean.to(at::kFloat), rstds = rstd.to(at::kFloat);
    float* gain = add_vector(g, gain_offset);
    float* shift = add_vector(g, shift_offset);
    kernels_.norm_layer_gradient(contiguous(g), contiguous(x), means.const_data_ptr<float>(),
                                 rstds.const_data_ptr<float>(), g.size(1), gain, shift);
    if (step_.model_.recomputes_layers()) take_part();
  }
  void embedding(const kernels::EmbeddingRecord& record) override {
    DPFA_CHECK(!embedding_ && record.position_offset, "this step measures one table, with positions");
    embedding_ = record;
    take_part();
  }

  // Where layers are recomputed: what is measured from now on is added at once.
  void add_at_once(const at::Tensor& scales, const at::Tensor& sum) {
    scales_ = scales;
    sum_ = sum;
  }
  // Adds what the backward pass left.
  void add(const at::Tensor& scales, const at::Tensor& sum) {
    add_at_once(scales, sum);
    add_part();
  }
  // Squared norms of each part of the gradients measured so far (parts, B), and their sum (B).
  at::Tensor parts() const { return parts_.narrow(0, 0, used_); }
  at::Tensor squares() const {
    at::Tensor squares = at::empty({examples_}, doubles());
    kernels_.sum_parts(parts_.const_data_ptr<double>(), used_, squares.data_ptr<double>());
    return squares;
  }

 private:
  // Rows of parts_: two normalisations and four biases of a layer, matrices at each normalisation; the last
  // normalisation, embeddings and what stands beside each.
  static constexpr int64_t kPartsOfLayer = 10, kPartsOfEnds = 8;

  at::TensorOptions floats() const {
    return at::TensorOptions().dtype(at::kFloat).device(step_.model_.device());
  }
  at::TensorOptions doubles() const { return floats().dtype(at::kDouble); }
  // (parts, B): NaN gives factor 0.
  at::Tensor unmeasured(int64_t parts) const {
    const double nothing =
        DPFA_PLANT("unwritten_slot_accepted") ? 0 : std::numeric_limits<double>::quiet_NaN();
    return at::full({parts, examples_}, nothing, doubles());
  }
  double* next_part() {
    DPFA_CHECK(used_ < parts_.size(0), used_, " parts of a norm");
    return parts_.data_ptr<double>() + used_++ * examples_;
  }

  float* add_vector(const at::Tensor& g, int64_t offset) {
    vectors_.push_back({at::empty({examples_, g.size(1)}, floats()), offset});
    return vectors_.back().per_example.data_ptr<float>();
  }

  // The records that came since the last part. The head of a tied table waits for the embedding's rows.
  void take_part() {
    waiting_ = step_.model_.shape().tied_head && !embedding_ ? 1 : 0;
    step_.done(Phase::kForwardBackward);
    measure_part();
    step_.done(Phase::kNorms);
    if (!step_.model_.recomputes_layers()) return;
    if (sum_.defined()) {
      add_part();
      step_.done(Phase::kProducts);
    }
    vectors_.clear();
    linears_.erase(linears_.begin() + waiting_, linears_.end());
  }

  void measure_part() {
    for (const kernels::VectorRecord& vector : vectors_)
      if (!DPFA_PLANT("bias_missing"))
        kernels_.vector_squares(vector.per_example.const_data_ptr<float>(), vector.per_example.size(1),
                                next_part());
    at::Tensor tied_squares;
    if (embedding_) tied_squares = measure_embedding();
    kernels_.set_matrices(list_matrices());
    kernels_.gram_norms();
    if (tied_squares.defined() && method_of(linears_.front()) == kernels::NormMethod::kGram)
      complete_tied_table(tied_squares);
    kernels_.matrix_squares(selected_.const_data_ptr<uint8_t>(), next_part());
  }

  // Returns the squares of a tied table's rows, which are no part of their own.
  at::Tensor measure_embedding() {
    const at::Tensor& g = embedding_->row_gradient;
    const int64_t n = g.size(1);
    kernels_.position_squares(contiguous(g), n, next_part());
    rows_ = at::empty({kernels_.groups(), n}, floats());
    kernels_.embedding_rows(contiguous(g), n, rows_.data_ptr<float>());
    at::Tensor tied_squares = embedding_->tied_head ? unmeasured(1) : at::Tensor();
    kernels_.token_row_squares(rows_.const_data_ptr<float>(), n,
                               tied_squares.defined() ? tied_squares.data_ptr<double>() : next_part());
    return tied_squares;
  }

  void add_part() const {
    const float* scales = scales_.const_data_ptr<float>();
    int32_t* sum = sum_.data_ptr<int32_t>();
    for (const kernels::VectorRecord& vector : vectors_)
      kernels_.add_integers(vector.per_example.const_data_ptr<float>(), vector.per_example.size(1), scales,
                            sum + vector.offset);
    if (embedding_) {
      const at::Tensor& g = embedding_->row_gradient;
      kernels_.add_position_integers(contiguous(g), g.size(1), scales, tokens_,
                                     sum + embedding_->position_offset.value());
      if (!embedding_->tied_head)
        kernels_.add_row_integers(rows_.const_data_ptr<float>(), g.size(1), scales,
                                  sum + embedding_->token_offset);
    }
    kernels_.add_products(scales, sum);
  }

  kernels::NormMethod method_of(const kernels::LinearRecord& record) const {
    return methods_.at(record.offset);
  }
  bool is_tied(size_t k) const { return embedding_ && embedding_->tied_head == k; }

  std::vector<kernels::ExampleMatrix> list_matrices() const {
    std::vector<kernels::ExampleMatrix> matrices;
    for (size_t k = waiting_; k < linears_.size(); ++k) {
      const at::Tensor &left = linears_[k].row_operand(), &right = linears_[k].column_operand();
      matrices.push_back({left.const_data_ptr(), stride_of(left), left.size(1), right.const_data_ptr(),
                          stride_of(right), right.size(1), linears_[k].offset, method_of(linears_[k]),
                          is_tied(k) ? rows_.const_data_ptr<float>() : nullptr});
    }
    return matrices;
  }

  void complete_tied_table(const at::Tensor& row_squares) const {
    const kernels::LinearRecord& head = linears_.front();
    const at::Tensor& g = embedding_->row_gradient;
    at::Tensor terms = unmeasured(1), magnitudes = unmeasured(1);
    const kernels::TiedTable table = {0,
                                      contiguous(g),
                                      contiguous(head.input),
                                      head.output_gradient.const_data_ptr(),
                                      g.size(1),
                                      stride_of(head.output_gradient),
                                      row_squares.const_data_ptr<double>()};
    kernels_.cross_terms(table, terms.data_ptr<double>(), magnitudes.data_ptr<double>());
    if (DPFA_PLANT("tied_norm_no_cross")) terms.zero_();
    kernels_.tied_norm(table, terms.const_data_ptr<double>(), magnitudes.const_data_ptr<double>());
  }

  ClippedStep& step_;
  kernels::ExampleKernels& kernels_;
  const Methods& methods_;
  at::Tensor selected_;  // (B)
  int64_t tokens_, examples_;
  at::Tensor parts_;  // rows for all parts of a norm, NaN until they are measured
  int64_t used_ = 0;  // rows
  std::vector<kernels::LinearRecord> linears_;
  size_t waiting_ = 0;  // of these: not of this part
  std::vector<kernels::VectorRecord> vectors_;
  std::optional<kernels::EmbeddingRecord> embedding_;
  at::Tensor rows_;  // (groups, C): of the embedding, summed over equal ids
  at::Tensor scales_, sum_;
};

ClippedStep::ClippedStep(const StepNumbers& numbers, Gpt2& model, kernels::ExampleKernels& kernels,
                         Parameters& parameters)
    : numbers_(numbers),
      model_(model),
      kernels_(kernels),
      parameters_(parameters),
      sum_(at::zeros({model.shape().parameter_count()},
                     at::TensorOptions().dtype(at::kInt).device(model.device()))) {
  numbers_.methods.measurements = model.recomputes_layers() ? 2 : 1;
  DPFA_CHECK(kernels.element() == element_of(model.compute()), "kernels for another type than ",
             c10::toString(model.compute()));
  DPFA_CHECK(numbers.max_grad_norm > 0 && numbers.divisor > 0 &&
                 numbers.max_grad_norm <= std::ldexp(1.0, 23 + numbers.grid_exponent),
             "a grid of 2^", numbers.grid_exponent, " for contributions of ", numbers.max_grad_norm);
}

void ClippedStep::make_room(int64_t contributions) {
  DPFA_CHECK(contributions <= kFlushEvery, contributions, " examples in one microbatch");
  if (since_flush_ + contributions > kFlushEvery) {
    if (!wide_.defined()) wide_ = at::zeros({sum_.size(0)}, sum_.options().dtype(at::kLong));
    wide_.add_(sum_);
    sum_.zero_();
    since_flush_ = 0;
  }
  since_flush_ += contributions;
}

const ClippedStep::Methods& ClippedStep::methods_for(const model::Batch& batch) {
  const std::pair key{batch.examples, batch.tokens};
  if (const auto known = methods_.find(key); known != methods_.end()) return known->second;
  const std::vector<MatrixParameter> matrices = matrices_of(model_.shape());
  std::vector<kernels::MatrixShape> shapes;
  if (batch.examples > 0 && batch.tokens > 0)
    for (const MatrixParameter& m : matrices)
      shapes.push_back({.tokens = batch.tokens,
                        .inputs = m.inputs,
                        .outputs = m.outputs,
                        .output_major = m.output_major,
                        .compute = model_.compute(),
                        .tied = m.tied});
  const std::vector<kernels::NormMethod> methods =
      choose_methods(shapes, batch.examples, numbers_.methods, kernels_, model_.device());
  Methods& chosen = methods_[key];
  for (size_t k = 0; k < methods.size(); ++k) chosen[matrices[k].offset] = methods[k];
  return chosen;
}

// The scales (B) of contributions with these squared norms; keeps squares and factors.
at::Tensor ClippedStep::settle(const at::Tensor& squares, const at::Tensor& selected) {
  squares_ = squares;
  factors_ = at::empty_like(squares_);
  const at::Tensor scales = at::empty(squares_.sizes(), squares_.options().dtype(at::kFloat));
  kernels_.clip_scales(squares_.const_data_ptr<double>(), selected.const_data_ptr<uint8_t>(),
                       {numbers_.max_grad_norm, numbers_.clip_rule}, numbers_.grid_exponent,
                       factors_.data_ptr<double>(), scales.data_ptr<float>());
  done(Phase::kNorms);
  return scales;
}

void ClippedStep::accumulate(const model::Batch& batch) {
  c10::InferenceMode guard;
  make_room(batch.examples);
  ++microbatches_;
  const Methods& methods = methods_for(batch);
  const at::Tensor losses = model_.forward(batch, /*for_backward=*/true);
  const std::span<const int64_t> offsets = model_.offsets(), targets = model_.targets();
  if (offsets.back() == 0) return;
  std::vector<uint8_t> has_target(batch.examples);
  for (int64_t b = 0; b < batch.examples; ++b)
    has_target[b] = std::any_of(targets.begin() + offsets[b], targets.begin() + offsets[b + 1],
                                [](int64_t target) { return target >= 0; });
  const at::Tensor selected = upload<uint8_t>(has_target, model_.device()).mul_(losses.isfinite());
  Pass pass(*this, batch, methods, selected);
  model_.backward(pass);
  const at::Tensor scales = settle(pass.squares(), selected);
  if (DPFA_PLANT("accumulate_overwrite")) sum_.zero_();
  if (!model_.recomputes_layers()) {
    pass.add(scales, sum_);
    done(Phase::kProducts);
    return;
  }
  Pass again(*this, batch, methods, selected);
  again.add_at_once(scales, sum_);
  model_.backward(again);
  const at::Tensor differs = again.parts().ne(pass.parts()).logical_and_(factors_.gt(0)).any();
  if (!differs.item<bool>() || DPFA_PLANT("recomputed_unchecked")) return;
  last_draw_ = std::numeric_limits<int64_t>::max();  // the sum is released no more
  throw InternalError(
      "a recomputed layer gave other numbers the second time: keep activations, or have LibTorch use "
      "deterministic algorithms");
}

void ClippedStep::release(const StreamKey& key, uint64_t draw, const kernels::AdamwStep& step) {
  c10::InferenceMode guard;
  DPFA_CHECK(draw <= std::numeric_limits<int64_t>::max() && static_cast<int64_t>(draw) > last_draw_, "draw ",
             draw, " after ", last_draw_);
  last_draw_ = static_cast<int64_t>(draw);
  const bool is_bf16 = model_.compute() == at::kBFloat16;
  const kernels::UpdateState state = {
      parameters_.m.data_ptr<float>(), parameters_.v.data_ptr<float>(), parameters_.weights.data_ptr<float>(),
      is_bf16 ? reinterpret_cast<uint16_t*>(parameters_.compute.data_ptr<c10::BFloat16>()) : nullptr};
  kernels::NoiseSpec noise = numbers_.noise;
  if (DPFA_PLANT("noise_per_microbatch"))
    noise.stddev_in_grid_units *= std::sqrt(std::max(1.0, static_cast<double>(microbatches_)));
  const double scale = std::ldexp(1.0, numbers_.grid_exponent) / numbers_.divisor;
  if (wide_.defined()) {
    wide_.add_(sum_);
    sum_.zero_();
    kernels_.release(key, draw, noise, scale, step, wide_.data_ptr<int64_t>(), state);
  } else {
    kernels_.release(key, draw, noise, scale, step, sum_.data_ptr<int32_t>(), state);
  }
  since_flush_ = microbatches_ = 0;
  if (!is_bf16 && !parameters_.compute.is_alias_of(parameters_.weights))
    parameters_.compute.copy_(parameters_.weights);
  done(Phase::kRelease);
}

}  // namespace dpfa::device
