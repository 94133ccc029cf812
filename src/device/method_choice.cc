#include "src/device/method_choice.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <limits>

namespace dpfa::device {
namespace {

using kernels::MatrixShape;
using kernels::NormMethod;

constexpr int64_t kMadeUpBytes = int64_t{256} << 20, kMadeUpExamples = 32;

std::string method_name(NormChoice choice) {
  switch (choice) {
    case NormChoice::kGram:
      return to_string(NormMethod::kGram);
    case NormChoice::kDirect:
      return to_string(NormMethod::kDirect);
    case NormChoice::kMaterialise:
      return to_string(NormMethod::kMaterialise);
    case NormChoice::kMeasured:
      break;
  }
  return "auto";
}

// A matrix of made-up examples of one length, with all that measuring and adding it reads and writes: of a
// tied table also the embedding's rows, which are part of its gradient (ClippedStep does the same).
class MadeUpMatrix {
 public:
  MadeUpMatrix(kernels::ExampleKernels& kernels, at::Device device, const MatrixShape& shape,
               NormMethod method)
      : kernels_(kernels),
        shape_(shape),
        examples_(std::clamp<int64_t>(kMadeUpBytes / shape.gradient_bytes(), 1,
                                      method == NormMethod::kMaterialise ? shape.kept : shape.examples)),
        input_(rows(shape.inputs, shape.inputs, device)),
        // Rows of logits lie at strides of multiples of 64 numbers.
        output_gradient_(
            rows(shape.outputs, shape.output_major ? (shape.outputs + 63) / 64 * 64 : shape.outputs, device)),
        selected_(at::ones({examples_}, at::TensorOptions().dtype(at::kByte).device(device))),
        squares_(at::zeros({examples_}, selected_.options().dtype(at::kDouble))),
        scales_(at::ones({examples_}, selected_.options().dtype(at::kFloat))),
        sum_(at::zeros({shape.inputs * shape.outputs}, selected_.options().dtype(at::kInt))) {
    const std::vector<int64_t> offsets = kernels::equal_offsets(examples_, shape.tokens);
    std::vector<int64_t> ids(examples_ * shape.tokens);
    for (size_t i = 0; shape.tied && i < ids.size(); ++i) ids[i] = i * 7919 % shape.outputs;
    kernels_.set_examples(offsets, ids);
    if (shape.tied) make_embedding(device);
    const at::Tensor &left = shape.output_major ? output_gradient_ : input_,
                     &right = shape.output_major ? input_ : output_gradient_;
    const kernels::ExampleMatrix matrix = {left.const_data_ptr(),
                                           left.stride(0),
                                           left.size(1),
                                           right.const_data_ptr(),
                                           right.stride(0),
                                           right.size(1),
                                           0,
                                           method,
                                           shape.tied ? embedding_rows_.const_data_ptr<float>() : nullptr};
    kernels_.set_matrices({&matrix, 1});
    completes_gram_norm_ = shape.tied && method == NormMethod::kGram;
  }

  double seconds_per_example(int measurements) {
    kernels_.wait();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < measurements; ++i) {
      kernels_.gram_norms();
      if (completes_gram_norm_) complete_gram_norm();
      kernels_.matrix_squares(selected_.const_data_ptr<uint8_t>(), squares_.data_ptr<double>());
    }
    kernels_.add_products(scales_.const_data_ptr<float>(), sum_.data_ptr<int32_t>());
    kernels_.wait();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count() / static_cast<double>(examples_);
  }

 private:
  at::Tensor rows(int64_t columns, int64_t stride, at::Device device) const {
    return at::randn({examples_ * shape_.tokens, stride}, at::TensorOptions().device(device))
        .to(shape_.compute)
        .narrow(1, 0, columns);
  }

  // The rows cost the same for every method: they are made once, and not timed.
  void make_embedding(at::Device device) {
    row_gradient_ = rows(shape_.inputs, shape_.inputs, device);
    embedding_rows_ = at::empty({kernels_.groups(), shape_.inputs}, scales_.options());
    row_squares_ = at::empty_like(squares_);
    terms_ = at::empty_like(squares_);
    magnitudes_ = at::empty_like(squares_);
    kernels_.embedding_rows(row_gradient_.const_data_ptr(), shape_.inputs, embedding_rows_.data_ptr<float>());
    kernels_.token_row_squares(embedding_rows_.const_data_ptr<float>(), shape_.inputs,
                               row_squares_.data_ptr<double>());
  }

  void complete_gram_norm() {
    const kernels::TiedTable table = {0,
                                      row_gradient_.const_data_ptr(),
                                      input_.const_data_ptr(),
                                      output_gradient_.const_data_ptr(),
                                      shape_.inputs,
                                      output_gradient_.stride(0),
                                      row_squares_.const_data_ptr<double>()};
    kernels_.cross_terms(table, terms_.data_ptr<double>(), magnitudes_.data_ptr<double>());
    kernels_.tied_norm(table, terms_.const_data_ptr<double>(), magnitudes_.const_data_ptr<double>());
  }

  kernels::ExampleKernels& kernels_;
  MatrixShape shape_;
  int64_t examples_;
  at::Tensor input_, output_gradient_, selected_, squares_, scales_, sum_;
  at::Tensor row_gradient_, embedding_rows_, row_squares_, terms_, magnitudes_;  // of a tied table
  bool completes_gram_norm_ = false;
};

}  // namespace

double method_seconds(kernels::ExampleKernels& kernels, at::Device device, const MatrixShape& shape,
                      NormMethod method, int measurements) {
  c10::InferenceMode guard;
  MadeUpMatrix matrix(kernels, device, shape, method);
  matrix.seconds_per_example(measurements);
  double least = std::numeric_limits<double>::infinity();
  for (int run = 0; run < 5; ++run) least = std::min(least, matrix.seconds_per_example(measurements));
  return least;
}

std::vector<NormMethod> choose_methods(std::span<const MatrixShape> shapes, int64_t examples,
                                       const MethodSettings& settings, kernels::ExampleKernels& kernels,
                                       at::Device device) {
  std::vector<MatrixShape> kept_in_type(shapes.begin(), shapes.end());
  for (MatrixShape& shape : kept_in_type)
    shape.element_bytes = static_cast<int64_t>(c10::elementSize(shape.compute));
  const kernels::NormMethodChoice choice = {
      .method = method_name(settings.norms),
      .budget_bytes = settings.budget_bytes,
      .most_examples = kMadeUpExamples,
      .gram_norms = kernels.has_gram_norms(),
      .machine =
          kernels.name() +
          (settings.measurements > 1 ? "/measured" + std::to_string(settings.measurements) : std::string()),
      .file = settings.file};
  const std::vector<NormMethod> methods =
      methods_of(std::move(kept_in_type), examples, choice, [&](const MatrixShape& shape, NormMethod method) {
        return method_seconds(kernels, device, shape, method, settings.measurements);
      });
  if (settings.log)
    settings.log("gradient norms on " + choice.machine +
                 (settings.norms == NormChoice::kMeasured ? ", by measurement:" : ", as asked for:") +
                 kernels::summary(shapes, methods));
  return methods;
}

}  // namespace dpfa::device
