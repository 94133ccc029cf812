#include "tests/device/host_kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/token_groups.h"

namespace dpfa::test {
namespace {

using kernels::ExampleMatrix;
using kernels::cuda::GramResult;

int32_t to_grid(double value, float scale) {
  return static_cast<int32_t>(std::lrint(static_cast<double>(scale) * value));
}

using kernels::NormMethod;

struct Bfloat16 {
  uint16_t bits;
  explicit operator double() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

template <typename T>
class HostKernels final : public kernels::ExampleKernels {
 public:
  HostKernels(std::span<const kernels::DecayRange> decay, KernelCalls* calls)
      : decay_(decay.begin(), decay.end()), calls_(calls) {}

  kernels::Element element() const override {
    if constexpr (std::is_same_v<T, double>) return kernels::Element::kDouble;
    return std::is_same_v<T, float> ? kernels::Element::kFloat : kernels::Element::kBFloat16;
  }
  std::string name() const override { return "loops"; }
  bool has_gram_norms() const override { return true; }
  void wait() override {}
  void set_examples(std::span<const int64_t> offsets, std::span<const int64_t> ids) override {
    offsets_.assign(offsets.begin(), offsets.end());
    ids_.assign(ids.begin(), ids.end());
    groups_ = kernels::cuda::token_groups(ids_, offsets_);
    matrices_.clear();
  }

  void bias_gradient(const void* g, int64_t n, float* out) override {
    for (int64_t b = 0; b < examples(); ++b)
      for (int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (int64_t t = offsets_[b]; t < offsets_[b + 1]; ++t) sum += at(g, t * n + c);
        out[b * n + c] = static_cast<float>(sum);
      }
  }
  void norm_layer_gradient(const void* g, const void* x, const float* mean, const float* rstd, int64_t n,
                           float* gain, float* shift) override {
    bias_gradient(g, n, shift);
    for (int64_t b = 0; b < examples(); ++b)
      for (int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (int64_t t = offsets_[b]; t < offsets_[b + 1]; ++t)
          sum += at(g, t * n + c) * (at(x, t * n + c) - mean[t]) * rstd[t];
        gain[b * n + c] = static_cast<float>(sum);
      }
  }
  void vector_squares(const float* values, int64_t n, double* squares) override {
    if (!begin_part("vector_squares", squares)) return;
    for (int64_t i = 0; i < examples() * n; ++i) squares[i / n] += static_cast<double>(values[i]) * values[i];
  }
  void add_integers(const float* values, int64_t n, const float* scales, int32_t* sum) override {
    for (int64_t i = 0; i < examples() * n; ++i)
      if (scales[i / n] > 0) sum[i % n] += to_grid(values[i], scales[i / n]);
  }

  int64_t groups() const override { return static_cast<int64_t>(groups_.ids.size()); }
  void embedding_rows(const void* g, int64_t n, float* rows) override {
    count("embedding_rows");
    for (int64_t u = 0; u < groups(); ++u)
      for (int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (int64_t i = groups_.first_position[u]; i < groups_.first_position[u + 1]; ++i)
          sum += at(g, groups_.positions[i] * n + c);
        rows[u * n + c] = static_cast<float>(sum);
      }
  }
  void token_row_squares(const float* rows, int64_t n, double* squares) override {
    if (!begin_part("token_row_squares", squares)) return;
    for_rows([&](int64_t b, int64_t u) {
      for (int64_t c = 0; c < n; ++c) squares[b] += static_cast<double>(rows[u * n + c]) * rows[u * n + c];
    });
  }
  void add_row_integers(const float* rows, int64_t n, const float* scales, int32_t* table) override {
    for_rows([&](int64_t b, int64_t u) {
      for (int64_t c = 0; scales[b] > 0 && c < n; ++c)
        table[groups_.ids[u] * n + c] += to_grid(rows[u * n + c], scales[b]);
    });
  }
  void position_squares(const void* g, int64_t n, double* squares) override {
    if (!begin_part("position_squares", squares)) return;
    for (int64_t b = 0; b < examples(); ++b)
      for (int64_t i = offsets_[b] * n; i < offsets_[b + 1] * n; ++i) squares[b] += at(g, i) * at(g, i);
  }
  void add_position_integers(const void* g, int64_t n, const float* scales, int64_t positions,
                             int32_t* table) override {
    for (int64_t b = 0; b < examples(); ++b)
      for (int64_t i = 0; scales[b] > 0 && i < std::min(positions, length(b)) * n; ++i)
        table[i] += to_grid(at(g, offsets_[b] * n + i), scales[b]);
  }

  void set_matrices(std::span<const ExampleMatrix> matrices) override {
    matrices_.assign(matrices.begin(), matrices.end());
    const size_t pairs = matrices_.size() * static_cast<size_t>(examples());
    results_.assign(pairs, {kNan, kNan, kNan});
    certified_.assign(pairs, 0);
    kept_.assign(pairs, {});
  }
  void gram_norms() override {
    for (size_t k = 0; k < matrices_.size(); ++k)
      for (int64_t b = 0; matrices_[k].method == NormMethod::kGram && b < examples(); ++b) {
        results_[at(k, b)] = gram(matrices_[k], b);
        certify(k, b);
      }
  }
  void cross_terms(const kernels::TiedTable& table, double* terms, double* magnitudes) override {
    count("cross_terms");
    for (int64_t b = 0; b < examples(); ++b) {
      terms[b] = magnitudes[b] = 0;
      for (int64_t t = offsets_[b]; t < offsets_[b + 1]; ++t)
        for (int64_t u = offsets_[b]; u < offsets_[b + 1]; ++u) {
          const double z = at(table.z, u * table.z_stride + ids_[t]);
          terms[b] += z * dot(table.g, t * table.n, table.h, u * table.n, table.n);
          magnitudes[b] +=
              std::abs(z) * norm(table.g, t * table.n, table.n) * norm(table.h, u * table.n, table.n);
        }
    }
  }
  void tied_norm(const kernels::TiedTable& table, const double* terms, const double* magnitudes) override {
    const auto k = static_cast<size_t>(table.matrix);
    for (int64_t b = 0; b < examples(); ++b) {
      results_[at(k, b)] = kernels::cuda::tied_result(results_[at(k, b)], table.row_squares[b], terms[b],
                                                      magnitudes[b], table.n);
      certify(k, b);
    }
  }
  void matrix_squares(const uint8_t* selected, double* squares) override {
    if (!begin_part("matrix_squares", squares)) return;
    if (calls_ != nullptr) drift_ *= calls_->drift;
    for (size_t k = 0; k < matrices_.size(); ++k)
      for (int64_t b = 0; b < examples(); ++b) {
        const bool is_kept = matrices_[k].method == NormMethod::kMaterialise,
                   direct = certified_[at(k, b)] == 0;
        if (calls_ != nullptr && selected[b] != 0)
          ++(is_kept ? calls_->kept : direct ? calls_->direct : calls_->gram);
        if (!direct) squares[b] += upper_squared(results_[at(k, b)]) * drift_;
        if (!direct || selected[b] == 0) continue;
        std::vector<double> values = product(matrices_[k], b);
        for (double& v : values) {
          if (is_kept) v = as_operand(v);
          squares[b] += v * v * drift_;
        }
        if (is_kept) kept_[at(k, b)] = std::move(values);
      }
  }
  void add_products(const float* scales, int32_t* sum) override {
    for (size_t k = 0; k < matrices_.size(); ++k)
      for (int64_t b = 0; b < examples(); ++b) {
        if (!(scales[b] > 0)) continue;
        const ExampleMatrix& m = matrices_[k];
        const std::vector<double>& kept = kept_[at(k, b)];
        const std::vector<double> values = kept.empty() ? product(m, b) : kept;
        for (size_t i = 0; i < values.size(); ++i)
          sum[m.offset + static_cast<int64_t>(i)] += to_grid(values[i], scales[b]);
      }
  }

  void sum_parts(const double* parts, int64_t count, double* squares) override {
    std::fill_n(squares, examples(), 0.0);
    for (int64_t i = 0; i < count * examples(); ++i) squares[i % examples()] += parts[i];
  }
  void clip_scales(const double* squares, const uint8_t* selected, kernels::Clipping clip, int grid_exponent,
                   double* factors, float* scales) override {
    for (int64_t b = 0; b < examples(); ++b) {
      factors[b] = selected[b] != 0 ? kernels::cuda::factor_of(squares[b], clip) : 0;
      const double exact = std::ldexp(factors[b], -grid_exponent);
      scales[b] = static_cast<float>(exact);
      if (scales[b] > exact) scales[b] = std::nextafter(scales[b], 0.0f);
    }
  }

  void release(const StreamKey& key, uint64_t draw, const kernels::NoiseSpec& spec, double scale,
               const kernels::AdamwStep& step, int32_t* sum, const kernels::UpdateState& state) override {
    update(key, draw, spec, scale, step, sum, state);
  }
  void release(const StreamKey& key, uint64_t draw, const kernels::NoiseSpec& spec, double scale,
               const kernels::AdamwStep& step, int64_t* sum, const kernels::UpdateState& state) override {
    count("wide_release");
    update(key, draw, spec, scale, step, sum, state);
  }

 private:
  static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

  void count(const char* what) const {
    if (calls_ != nullptr) ++calls_->counts[what];
  }
  // False: this part of the norm is the one that does not run.
  bool begin_part(const char* part, double* squares) const {
    if (calls_ != nullptr && calls_->left_out == part) return false;
    std::fill_n(squares, examples(), 0.0);
    return true;
  }
  int64_t examples() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t length(int64_t b) const { return offsets_[b + 1] - offsets_[b]; }
  size_t at(size_t k, int64_t b) const {
    return k * static_cast<size_t>(examples()) + static_cast<size_t>(b);
  }
  static double at(const void* values, int64_t i) {
    return static_cast<double>(static_cast<const T*>(values)[i]);
  }
  // Rounded to the operands' type.
  static double as_operand(double v) {
    if constexpr (std::is_same_v<T, double>) return v;
    const auto nearest = static_cast<float>(v);
    if constexpr (std::is_same_v<T, float>) return nearest;
    const auto bits = std::bit_cast<uint32_t>(nearest);
    return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
  }
  static double dot(const void* a, int64_t i, const void* b, int64_t j, int64_t n) {
    double sum = 0;
    for (int64_t c = 0; c < n; ++c) sum += at(a, i + c) * at(b, j + c);
    return sum;
  }
  static double norm(const void* a, int64_t i, int64_t n) { return std::sqrt(dot(a, i, a, i, n)); }
  template <typename F>
  void for_rows(F f) const {
    for (int64_t b = 0; b < examples(); ++b)
      for (int64_t u = groups_.first_group[b]; u < groups_.first_group[b + 1]; ++u) f(b, u);
  }

  GramResult gram(const ExampleMatrix& m, int64_t b) const {
    GramResult r = {0, 0, 0};
    for (int64_t t = offsets_[b]; t < offsets_[b + 1]; ++t) {
      const int64_t lt = t * m.left_stride, rt = t * m.right_stride;
      for (int64_t u = offsets_[b]; u < offsets_[b + 1]; ++u)
        r.squared += dot(m.left, lt, m.left, u * m.left_stride, m.rows) *
                     dot(m.right, rt, m.right, u * m.right_stride, m.columns);
      r.magnitude += norm(m.left, lt, m.rows) * norm(m.right, rt, m.columns);
    }
    r.error = 1e-12 * r.magnitude * r.magnitude;  // of sums in double
    return r;
  }
  void certify(size_t k, int64_t b) {
    certified_[at(k, b)] =
        kernels::cuda::is_certified(results_[at(k, b)], length(b), matrices_[k].rows, matrices_[k].columns);
  }
  std::vector<double> product(const ExampleMatrix& m, int64_t b) const {
    std::vector<double> out(m.rows * m.columns);
    for (int64_t t = offsets_[b]; t < offsets_[b + 1]; ++t)
      for (int64_t i = 0; i < m.rows; ++i)
        for (int64_t j = 0; j < m.columns; ++j)
          out[i * m.columns + j] += at(m.left, t * m.left_stride + i) * at(m.right, t * m.right_stride + j);
    for (int64_t u = groups_.first_group[b]; m.extra_rows != nullptr && u < groups_.first_group[b + 1]; ++u)
      for (int64_t j = 0; j < m.columns; ++j)
        out[groups_.ids[u] * m.columns + j] += m.extra_rows[u * m.columns + j];
    return out;
  }

  template <typename Int>
  void update(const StreamKey& key, uint64_t draw, const kernels::NoiseSpec& spec, double scale,
              const kernels::AdamwStep& step, Int* sum, const kernels::UpdateState& state) {
    count("release");
    const auto parameters = static_cast<size_t>(decay_.back().end);
    std::vector<float> gradient(parameters);
    kernels::add_noise(key, draw, 0, spec, scale, std::span<const Int>(sum, parameters), gradient);
    std::fill_n(sum, parameters, Int{0});
    const auto chunk = [&](int64_t begin, std::span<float>) { return gradient.data() + begin; };
    const std::span<uint16_t> compute(state.compute, state.compute == nullptr ? 0 : parameters);
    kernels::adamw_step(step, decay_, chunk, {state.m, parameters}, {state.v, parameters},
                        {state.weights, parameters}, compute);
  }

  std::vector<kernels::DecayRange> decay_;
  KernelCalls* calls_;
  std::vector<int64_t> offsets_ = {0}, ids_;
  kernels::cuda::TokenGroups groups_;
  std::vector<ExampleMatrix> matrices_;
  std::vector<GramResult> results_;
  std::vector<uint8_t> certified_;
  std::vector<std::vector<double>> kept_;  // of each pair; empty where it is not kept
  double drift_ = 1;
};

}  // namespace

std::unique_ptr<kernels::ExampleKernels> make_host_kernels(kernels::Element element,
                                                           std::span<const kernels::DecayRange> decay,
                                                           KernelCalls* calls) {
  if (element == kernels::Element::kDouble) return std::make_unique<HostKernels<double>>(decay, calls);
  if (element == kernels::Element::kFloat) return std::make_unique<HostKernels<float>>(decay, calls);
  return std::make_unique<HostKernels<Bfloat16>>(decay, calls);
}

}  // namespace dpfa::test
