#include "kernels/cuda/example_kernels.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/clip.h"
#include "kernels/cuda/gram_norm.h"
#include "kernels/cuda/noisy_step.h"
#include "kernels/cuda/reducers.h"
#include "kernels/cuda/segment_gemm.h"
#include "src/base/check.h"

namespace dpfa::kernels::cuda {
namespace {

const uint16_t* bits(const void* operand) { return static_cast<const uint16_t*>(operand); }

// "NVIDIA H200/sm90/wgmma": times are kept under this name, and a path has times of its own.
std::string device_name() {
  const int capability = compute_capability();
  int device = 0;
  cudaDeviceProp properties;
  check(cudaGetDevice(&device), "look for a GPU");
  check(cudaGetDeviceProperties(&properties, device), "ask for the GPU's name");
  return std::string(properties.name) + "/sm" + std::to_string(capability) + "/" +
         to_string(device_paths().front());
}

bool equal(std::span<const int64_t> a, std::span<const int64_t> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

class CudaExampleKernels final : public ExampleKernels {
 public:
  CudaExampleKernels(std::span<const DecayRange> decay, int64_t parameters, cudaStream_t stream)
      : decay_(decay, parameters), stream_(stream), name_(device_name()) {}

  Element element() const override { return Element::kBFloat16; }
  std::string name() const override { return name_; }
  bool has_gram_norms() const override { return true; }
  void wait() override { check(cudaStreamSynchronize(stream_), "wait for the device"); }

  void set_examples(std::span<const int64_t> offsets, std::span<const int64_t> ids) override {
    if (groups_ && equal(offsets, offsets_) && equal(ids, ids_)) return;
    if (!groups_ || !equal(offsets, offsets_)) {
      matrices_.clear();  // plans hold offsets
      formed_.reset();
      cross_.reset();
      offsets_.assign(offsets.begin(), offsets.end());
      device_offsets_ = DeviceArray<int64_t>(std::span<const int64_t>(offsets_));
    }
    ids_.assign(ids.begin(), ids.end());
    device_ids_ = DeviceArray<int64_t>(std::span<const int64_t>(ids_));
    groups_.emplace(token_groups(ids_, offsets_));
  }

  void bias_gradient(const void* g, int64_t n, float* out) override {
    cuda::bias_gradient(rows_of(n), bits(g), out, stream_);
  }
  void norm_layer_gradient(const void* g, const void* x, const float* mean, const float* rstd, int64_t n,
                           float* gain, float* shift) override {
    cuda::norm_layer_gradient(rows_of(n), bits(g), bits(x), mean, rstd, gain, shift, stream_);
  }
  void vector_squares(const float* values, int64_t n, double* squares) override {
    cuda::vector_squares(values, examples(), n, squares, stream_);
  }
  void add_integers(const float* values, int64_t n, const float* scales, int32_t* sum) override {
    cuda::add_integers(values, scales, examples(), n, sum, stream_);
  }

  int64_t groups() const override { return groups_->groups(); }
  void embedding_rows(const void* g, int64_t n, float* rows) override {
    cuda::embedding_rows(*groups_, bits(g), n, rows, stream_);
  }
  void token_row_squares(const float* rows, int64_t n, double* squares) override {
    cuda::token_row_squares(*groups_, examples(), rows, n, squares, stream_);
  }
  void add_row_integers(const float* rows, int64_t n, const float* scales, int32_t* table) override {
    cuda::add_row_integers(*groups_, examples(), rows, n, scales, table, stream_);
  }
  void position_squares(const void* g, int64_t n, double* squares) override {
    cuda::position_squares(rows_of(n), bits(g), squares, stream_);
  }
  void add_position_integers(const void* g, int64_t n, const float* scales, int64_t positions,
                             int32_t* table) override {
    cuda::add_position_integers(rows_of(n), bits(g), scales, positions, table, stream_);
  }

  void set_matrices(std::span<const ExampleMatrix> matrices) override;
  void gram_norms() override {
    if (gram_) gram_->run(stream_);
  }
  void cross_terms(const TiedTable& table, double* terms, double* magnitudes) override {
    if (!cross_ || cross_columns_ != table.n) cross_.emplace(offsets_, table.n);
    cross_columns_ = table.n;
    cross_->run(
        {bits(table.g), bits(table.h), bits(table.z), table.n, table.n, table.z_stride, device_ids_.data()},
        terms, magnitudes, stream_);
  }
  void tied_norm(const TiedTable& table, const double* terms, const double* magnitudes) override {
    DPFA_CHECK(unit_of_[table.matrix] >= 0, "matrix ", table.matrix, " has no Gram norm");
    const ExampleMatrix& m = matrices_[table.matrix];
    const int64_t first = unit_of_[table.matrix] * examples();
    join_tied_rows(device_offsets_.data(), examples(), m.rows, m.columns,
                   {table.row_squares, terms, magnitudes}, gram_->results() + first,
                   gram_->certified() + first, stream_);
  }
  void matrix_squares(const uint8_t* selected, double* squares) override;
  void add_products(const float* scales, int32_t* sum) override;

  void sum_parts(const double* parts, int64_t count, double* squares) override {
    cuda::sum_parts(parts, count, examples(), squares, stream_);
  }
  void clip_scales(const double* squares, const uint8_t* selected, Clipping clip, int grid_exponent,
                   double* factors, float* scales) override {
    cuda::clip_scales(squares, selected, examples(), clip, grid_exponent, factors, scales, stream_);
  }

  void release(const StreamKey& key, uint64_t draw, const NoiseSpec& spec, double scale,
               const AdamwStep& step, int32_t* sum, const UpdateState& state) override {
    update(key, draw, spec, scale, step, sum, state);
  }
  void release(const StreamKey& key, uint64_t draw, const NoiseSpec& spec, double scale,
               const AdamwStep& step, int64_t* sum, const UpdateState& state) override {
    update(key, draw, spec, scale, step, sum, state);
  }

 private:
  int64_t examples() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  RowsOfExamples rows_of(int64_t n) const { return {device_offsets_.data(), examples(), n}; }
  template <typename Int>
  void update(const StreamKey& key, uint64_t draw, const NoiseSpec& spec, double scale, const AdamwStep& step,
              Int* sum, const UpdateState& s) {
    adamw_step<Int>({key, draw, spec, scale}, step, decay_, 0, sum, {s.m, s.v, s.weights, s.compute},
                    stream_);
  }

  void set_products(std::span<const ExampleMatrix> matrices);

  DecayRanges decay_;
  cudaStream_t stream_;
  std::string name_;
  std::vector<int64_t> offsets_ = {0}, ids_;
  DeviceArray<int64_t> device_offsets_, device_ids_;
  std::optional<DeviceTokenGroups> groups_;
  std::vector<ExampleMatrix> matrices_;
  std::pair<const int64_t*, const int64_t*> group_tables_;  // that the products hold
  std::optional<GramNormPlan> gram_;
  // Products that are formed anew to be added, and those that are kept; of both, in this order, active_ and
  // measured_ (matrices, B) and what unit_matrix_ numbers.
  std::optional<SegmentGemmPlan> formed_, kept_;
  DeviceArray<uint16_t> gradients_;  // (B, elements) of the kept ones
  std::optional<CrossTermPlan> cross_;
  int64_t cross_columns_ = 0;
  std::vector<int64_t> unit_of_;  // of each matrix in gram_; -1: it has none
  DeviceArray<int64_t> unit_matrix_;
  DeviceArray<uint8_t> active_;
  DeviceArray<double> measured_;
};

void CudaExampleKernels::set_products(std::span<const ExampleMatrix> matrices) {
  std::vector<SegmentProduct> formed, kept;
  for (const ExampleMatrix& m : matrices) {
    std::vector<SegmentProduct>& products = m.method == NormMethod::kMaterialise ? kept : formed;
    products.push_back(
        {bits(m.left), m.left_stride, m.rows, bits(m.right), m.right_stride, m.columns, m.offset, {}});
    if (m.extra_rows != nullptr)
      products.back().extra = {groups_->ids.data(), m.extra_rows, groups_->first_group.data()};
  }
  formed_.emplace(formed, offsets_);
  kept_.emplace(kept, offsets_);
  if (gradients_.size() != examples() * kept_->elements())
    gradients_ = DeviceArray<uint16_t>(examples() * kept_->elements());
}

void CudaExampleKernels::set_matrices(std::span<const ExampleMatrix> matrices) {
  const bool same =
      formed_ && std::equal(matrices.begin(), matrices.end(), matrices_.begin(), matrices_.end());
  const bool has_extra = std::any_of(matrices.begin(), matrices.end(),
                                     [](const ExampleMatrix& m) { return m.extra_rows != nullptr; });
  const std::pair<const int64_t*, const int64_t*> group_tables{groups_->ids.data(),
                                                               groups_->first_group.data()};
  if (!same || (has_extra && group_tables != group_tables_)) set_products(matrices);
  group_tables_ = group_tables;
  if (same) return;
  matrices_.assign(matrices.begin(), matrices.end());
  std::vector<GramMatrix> gram;
  std::vector<int64_t> unit_matrix;
  int64_t formed = 0;
  unit_of_.assign(matrices.size(), -1);
  for (size_t k = 0; k < matrices.size(); ++k) {
    const ExampleMatrix& m = matrices[k];
    if (m.method == NormMethod::kMaterialise) continue;
    ++formed;
    if (m.method != NormMethod::kGram) continue;
    unit_of_[k] = static_cast<int64_t>(unit_matrix.size());
    unit_matrix.push_back(formed - 1);
    gram.push_back({bits(m.left), m.left_stride, m.rows, bits(m.right), m.right_stride, m.columns});
  }
  gram_.reset();
  if (!gram.empty()) gram_.emplace(gram, offsets_);
  unit_matrix_ = DeviceArray<int64_t>(std::span<const int64_t>(unit_matrix));
  const int64_t pairs = static_cast<int64_t>(matrices.size()) * examples();
  active_ = DeviceArray<uint8_t>(pairs);
  measured_ = DeviceArray<double>(pairs);
}

void CudaExampleKernels::matrix_squares(const uint8_t* selected, double* squares) {
  const int64_t units = unit_matrix_.size(), count = static_cast<int64_t>(matrices_.size()),
                first_kept = formed_->matrices() * examples();
  const uint8_t* certified = gram_ ? gram_->certified() : nullptr;
  const GramResult* results = gram_ ? gram_->results() : nullptr;
  choose_direct(certified, unit_matrix_.data(), units, count, selected, examples(), active_.data(), stream_);
  formed_->squares(active_.data(), measured_.data(), stream_);
  kept_->materialise(active_.data() + first_kept, gradients_.data(), measured_.data() + first_kept, stream_);
  cuda::matrix_squares(results, unit_matrix_.data(), units, measured_.data(), active_.data(), count,
                       examples(), squares, stream_);
}

void CudaExampleKernels::add_products(const float* scales, int32_t* sum) {
  formed_->add_integers(scales, sum, stream_);
  kept_->add_materialised(scales, gradients_.data(), sum, stream_);
}

}  // namespace

std::unique_ptr<ExampleKernels> make_example_kernels(std::span<const DecayRange> decay, int64_t parameters,
                                                     cudaStream_t stream) {
  return std::make_unique<CudaExampleKernels>(decay, parameters, stream);
}

}  // namespace dpfa::kernels::cuda
