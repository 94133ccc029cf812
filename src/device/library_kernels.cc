#include "src/device/library_kernels.h"

#include <vector>

#include "kernels/cuda/token_groups.h"
#include "src/base/check.h"
#include "src/base/plant.h"
#include "src/device/clipped_step.h"
#include "src/device/upload.h"

namespace dpfa::device {
namespace {

using kernels::ExampleMatrix;
using kernels::NormMethod;

class LibraryKernels final : public kernels::ExampleKernels {
 public:
  LibraryKernels(at::ScalarType type, at::Device device, kernels::ExampleKernels& others)
      : options_(at::TensorOptions().dtype(type).device(device)), others_(others) {}

  kernels::Element element() const override { return element_of(options_.dtype().toScalarType()); }
  std::string name() const override { return others_.name() + "/LibTorch"; }
  bool has_gram_norms() const override { return false; }
  void wait() override { others_.wait(); }
  void set_examples(std::span<const int64_t> offsets, std::span<const int64_t> ids) override {
    others_.set_examples(offsets, ids);
    offsets_.assign(offsets.begin(), offsets.end());
    groups_ = kernels::cuda::token_groups(ids, offsets);
    std::vector<int64_t> group_of_row(ids.size());
    for (size_t u = 0; u < groups_.ids.size(); ++u)
      for (int64_t i = groups_.first_position[u]; i < groups_.first_position[u + 1]; ++i)
        group_of_row[groups_.positions[i]] = static_cast<int64_t>(u);
    group_of_row_ = upload<int64_t>(group_of_row, options_.device());
    group_ids_ = upload<int64_t>(groups_.ids, options_.device());
  }

  void bias_gradient(const void* g, int64_t n, float* out) override { sums(rows(g, n, n), n, out); }
  void norm_layer_gradient(const void* g, const void* x, const float* mean, const float* rstd, int64_t n,
                           float* gain, float* shift) override {
    const at::Tensor gradient = rows(g, n, n);
    sums(gradient, n, shift);
    sums(rows(x, n, n).sub(floats(mean, {all(), 1})).mul_(floats(rstd, {all(), 1})).mul_(gradient), n, gain);
  }
  void vector_squares(const float* values, int64_t n, double* squares) override {
    others_.vector_squares(values, n, squares);
  }
  void add_integers(const float* values, int64_t n, const float* scales, int32_t* sum) override {
    others_.add_integers(values, n, scales, sum);
  }

  int64_t groups() const override { return static_cast<int64_t>(groups_.ids.size()); }
  void embedding_rows(const void* g, int64_t n, float* out) override {
    at::Tensor sums_of_groups = at::zeros({groups(), n}, options_.dtype(at::kDouble));
    floats(out, {groups(), n})
        .copy_(sums_of_groups.index_add_(0, group_of_row_, rows(g, n, n).to(at::kDouble)));
  }
  void token_row_squares(const float* values, int64_t n, double* squares) override {
    others_.token_row_squares(values, n, squares);
  }
  void add_row_integers(const float* values, int64_t n, const float* scales, int32_t* table) override {
    others_.add_row_integers(values, n, scales, table);
  }
  void position_squares(const void* g, int64_t n, double* squares) override {
    view(squares, {examples()}).zero_();
    for (int64_t b = 0; b < examples(); ++b) add_square(of_example(rows(g, n, n), b), squares + b);
  }
  void add_position_integers(const void* g, int64_t n, const float* scales, int64_t positions,
                             int32_t* table) override {
    for (int64_t b = 0; b < examples(); ++b)
      add_scaled(of_example(rows(g, n, n), b).slice(0, 0, positions), scales + b, table);
  }

  void set_matrices(std::span<const ExampleMatrix> matrices) override {
    for (const ExampleMatrix& m : matrices)
      DPFA_CHECK(m.method != NormMethod::kGram, "no Gram norms by LibTorch's operations");
    matrices_.assign(matrices.begin(), matrices.end());
    kept_.clear();
  }
  void gram_norms() override {}
  void cross_terms(const kernels::TiedTable&, double*, double*) override {
    DPFA_CHECK(false, "no Gram norm");
  }
  void tied_norm(const kernels::TiedTable&, const double*, const double*) override {
    DPFA_CHECK(false, "no Gram norm");
  }
  // What is not selected is measured too: to ask which are would wait for the device.
  void matrix_squares(const uint8_t*, double* squares) override {
    view(squares, {examples()}).zero_();
    kept_.clear();
    for (const ExampleMatrix& m : matrices_)
      for (int64_t b = 0; b < examples(); ++b) {
        at::Tensor values = gradient(m, b);
        if (m.method == NormMethod::kMaterialise) {
          kept_.push_back(values.to(options_.dtype()));
          if (!DPFA_PLANT("measured_before_rounding")) values = kept_.back();
        }
        add_square(values, squares + b);
      }
  }
  void add_products(const float* scales, int32_t* sum) override {
    size_t next = 0;
    for (const ExampleMatrix& m : matrices_)
      for (int64_t b = 0; b < examples(); ++b)
        add_scaled(m.method == NormMethod::kMaterialise ? kept_.at(next++) : gradient(m, b), scales + b,
                   sum + m.offset);
  }

  void sum_parts(const double* parts, int64_t count, double* squares) override {
    others_.sum_parts(parts, count, squares);
  }
  void clip_scales(const double* squares, const uint8_t* selected, kernels::Clipping clip, int grid_exponent,
                   double* factors, float* scales) override {
    others_.clip_scales(squares, selected, clip, grid_exponent, factors, scales);
  }
  void release(const StreamKey& key, uint64_t draw, const kernels::NoiseSpec& spec, double scale,
               const kernels::AdamwStep& step, int32_t* sum, const kernels::UpdateState& state) override {
    others_.release(key, draw, spec, scale, step, sum, state);
  }
  void release(const StreamKey& key, uint64_t draw, const kernels::NoiseSpec& spec, double scale,
               const kernels::AdamwStep& step, int64_t* sum, const kernels::UpdateState& state) override {
    others_.release(key, draw, spec, scale, step, sum, state);
  }

 private:
  int64_t examples() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t all() const { return offsets_.back(); }
  template <typename T>
  at::Tensor view(const T* values, at::IntArrayRef sizes) const {
    return at::from_blob(const_cast<T*>(values), sizes, options_.dtype(c10::CppTypeToScalarType<T>::value));
  }
  at::Tensor floats(const float* values, at::IntArrayRef sizes) const { return view(values, sizes); }
  at::Tensor rows(const void* values, int64_t stride, int64_t n) const {
    return at::from_blob(const_cast<void*>(values), {all(), n}, {stride, 1}, options_);
  }
  at::Tensor of_example(const at::Tensor& values, int64_t b) const {
    return values.narrow(0, offsets_[b], offsets_[b + 1] - offsets_[b]);
  }
  void sums(const at::Tensor& values, int64_t n, float* out) const {
    const at::Tensor target = floats(out, {examples(), n});
    for (int64_t b = 0; b < examples(); ++b)
      target.select(0, b).copy_(of_example(values, b).sum(0, /*keepdim=*/false, at::kDouble));
  }

  at::Tensor gradient(const ExampleMatrix& m, int64_t b) const {
    const at::Tensor left = of_example(rows(m.left, m.left_stride, m.rows), b),
                     right = of_example(rows(m.right, m.right_stride, m.columns), b);
    at::Tensor product = at::mm(left.t(), right);
    if (product.scalar_type() == at::kBFloat16) product = product.to(at::kFloat);
    if (m.extra_rows == nullptr) return product;
    const int64_t first = groups_.first_group[b], count = groups_.first_group[b + 1] - first;
    const at::Tensor extra = floats(m.extra_rows, {groups(), m.columns}).narrow(0, first, count);
    return product.index_add_(0, group_ids_.narrow(0, first, count), extra.to(product.scalar_type()));
  }
  void add_square(const at::Tensor& values, double* square) const {
    view(square, {})
        .add_(at::linalg_vector_norm(values, 2, /*dim=*/at::OptionalIntArrayRef(), /*keepdim=*/false,
                                     at::kDouble)
                  .square_());
  }
  // By selection, not by a product with 0.
  void add_scaled(const at::Tensor& values, const float* scale, int32_t* sum) const {
    const at::Tensor factor = floats(scale, {});
    const at::Tensor wide = values.scalar_type() == at::kBFloat16 ? values.to(at::kFloat) : values;
    const at::Tensor scaled = at::where(factor.gt(0), wide.mul(factor), at::zeros({}, wide.options()));
    view(sum, values.sizes()).add_(scaled.round().to(at::kInt));
  }

  at::TensorOptions options_;
  kernels::ExampleKernels& others_;
  std::vector<int64_t> offsets_ = {0};
  kernels::cuda::TokenGroups groups_;
  at::Tensor group_of_row_, group_ids_;  // (N), (groups)
  std::vector<ExampleMatrix> matrices_;
  std::vector<at::Tensor> kept_;  // of the matrices that are materialised, example by example
};

}  // namespace

std::unique_ptr<kernels::ExampleKernels> make_library_kernels(at::ScalarType type, at::Device device,
                                                              kernels::ExampleKernels& others) {
  return std::make_unique<LibraryKernels>(type, device, others);
}

}  // namespace dpfa::device
