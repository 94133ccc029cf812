// The table of kernels that a clipped step asks for, against loops on the host with the same operands.
#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/example_kernels.h"
#include "kernels/cuda/reducers.h"
#include "tests/device/host_kernels.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {
namespace {

constexpr int64_t kWidth = 64, kOutputs = 192, kVocabulary = 150, kPositions = 300;
constexpr int64_t kTable = 0, kPositionTable = kTable + kVocabulary * kWidth,
                  kMatrix = kPositionTable + kPositions * kWidth, kBias = kMatrix + kWidth * kOutputs,
                  kGain = kBias + kOutputs, kShift = kGain + kWidth, kParameters = kShift + kWidth;
constexpr double kClip = 3;
constexpr int kGridExponent = -18;
constexpr int64_t kParts = 5;  // of a norm: three vectors, positions, matrices

// One layer x -> g with bias, a normalisation, a tied table (inputs h, logit gradients z, embedding e).
struct Model {
  std::vector<int64_t> offsets, ids;
  std::vector<uint16_t> x, g, h, e;  // contiguous rows
  Matrix z;
  std::vector<float> mean, rstd;
  explicit Model(const Lengths& lengths)
      : offsets(offsets_of(lengths)),
        x(contiguous(random_matrix(11, offsets.back(), kWidth))),
        g(contiguous(random_matrix(12, offsets.back(), kOutputs, 0.1f))),
        h(contiguous(random_matrix(13, offsets.back(), kWidth))),
        e(contiguous(random_matrix(15, offsets.back(), kWidth, 0.1f))),
        z(random_matrix(14, offsets.back(), kVocabulary, 0.1f)),
        mean(offsets.back(), 0.25f),
        rstd(offsets.back(), 1.5f) {
    for (int64_t t = 0; t < offsets.back(); ++t) ids.push_back(t * t % kVocabulary);
  }
  // Every token but an example's last takes back what the one before it added to the matrix, so its Gram norm
  // cannot be certified. Small whole numbers: all sums are exact.
  void cancel() {
    for (size_t b = 0; b + 1 < offsets.size(); ++b)
      for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
        const bool takes_back = (t - offsets[b]) % 2 == 1 && t + 1 < offsets[b + 1];
        const int64_t of = takes_back ? t - 1 : t;
        for (int64_t c = 0; c < kWidth; ++c) x[t * kWidth + c] = bits_of(small_number(7 * of + c));
        for (int64_t c = 0; c < kOutputs; ++c)
          g[t * kOutputs + c] = bits_of((takes_back ? -1.0f : 1.0f) * small_number(11 * of + 3 * c));
      }
  }
  static float small_number(int64_t i) { return static_cast<float>(i * i % 17 - 8); }
};

// Operands and results where some kernels work.
struct Operands {
  const uint16_t *x, *g, *h, *z, *e;
  const float *mean, *rstd;
  const uint8_t* selected;
};
struct Results {
  float *bias, *gain, *shift, *rows;
  double *parts, *row_squares, *terms, *magnitudes, *squares, *factors;  // parts (kParts, B)
  float* scales;
  int32_t* sum;
};

// Of the tied table and of the matrix.
struct Methods {
  NormMethod table, matrix;
  bool has(NormMethod method) const { return table == method || matrix == method; }
};

// What the step does with one microbatch (src/device/clipped_step.cc).
void run(ExampleKernels& kernels, const Model& m, const Methods& methods, const Operands& o,
         const Results& r) {
  kernels.bias_gradient(o.g, kOutputs, r.bias);
  kernels.norm_layer_gradient(o.e, o.x, o.mean, o.rstd, kWidth, r.gain, r.shift);
  const auto part = [&](size_t i) { return r.parts + i * (m.offsets.size() - 1); };
  kernels.vector_squares(r.bias, kOutputs, part(0));
  kernels.vector_squares(r.gain, kWidth, part(1));
  kernels.vector_squares(r.shift, kWidth, part(2));
  kernels.position_squares(o.e, kWidth, part(3));
  kernels.embedding_rows(o.e, kWidth, r.rows);
  kernels.token_row_squares(r.rows, kWidth, r.row_squares);
  const std::vector<ExampleMatrix> matrices = {
      {o.z, m.z.stride, kVocabulary, o.h, kWidth, kWidth, kTable, methods.table, r.rows},
      {o.x, kWidth, kWidth, o.g, kOutputs, kOutputs, kMatrix, methods.matrix}};
  kernels.set_matrices(matrices);
  kernels.gram_norms();
  const TiedTable table = {0, o.e, o.h, o.z, kWidth, m.z.stride, r.row_squares};
  kernels.cross_terms(table, r.terms, r.magnitudes);
  if (methods.table == NormMethod::kGram) kernels.tied_norm(table, r.terms, r.magnitudes);
  kernels.matrix_squares(o.selected, part(4));
  kernels.sum_parts(r.parts, kParts, r.squares);
  kernels.clip_scales(r.squares, o.selected, kClip, kGridExponent, r.factors, r.scales);
  kernels.add_integers(r.bias, kOutputs, r.scales, r.sum + kBias);
  kernels.add_integers(r.gain, kWidth, r.scales, r.sum + kGain);
  kernels.add_integers(r.shift, kWidth, r.scales, r.sum + kShift);
  kernels.add_position_integers(o.e, kWidth, r.scales, kPositions, r.sum + kPositionTable);
  kernels.add_products(r.scales, r.sum);
}

struct Outcome {
  std::vector<double> squares, factors;
  std::vector<int32_t> sum;
};

Outcome on_host(const Model& m, const std::vector<uint8_t>& selected, const Methods& methods,
                std::span<const DecayRange> decay) {
  const auto kernels = test::make_host_kernels(Element::kBFloat16, decay);
  kernels->set_examples(m.offsets, m.ids);
  const size_t b = selected.size();
  std::vector<float> bias(b * kOutputs), gain(b * kWidth), shift(b * kWidth), scales(b),
      rows(static_cast<size_t>(kernels->groups()) * kWidth);
  std::vector<double> parts(kParts * b), row_squares(b), terms(b), magnitudes(b);
  Outcome out = {std::vector<double>(b), std::vector<double>(b), std::vector<int32_t>(kParameters)};
  run(*kernels, m, methods,
      {m.x.data(), m.g.data(), m.h.data(), m.z.bits.data(), m.e.data(), m.mean.data(), m.rstd.data(),
       selected.data()},
      {bias.data(), gain.data(), shift.data(), rows.data(), parts.data(), row_squares.data(), terms.data(),
       magnitudes.data(), out.squares.data(), out.factors.data(), scales.data(), out.sum.data()});
  return out;
}

template <typename T>
DeviceArray<T> on_device(const std::vector<T>& values) {
  return DeviceArray<T>(std::span<const T>(values));
}

// Twice with the same tables, as a second step has them; the sum is that of both.
Outcome on_gpu(const Model& m, const std::vector<uint8_t>& selected, const Methods& methods,
               std::span<const DecayRange> decay) {
  const auto kernels = make_example_kernels(decay, kParameters, nullptr);
  const auto x = on_device(m.x), g = on_device(m.g), h = on_device(m.h), z = on_device(m.z.bits),
             e = on_device(m.e);
  const auto mean = on_device(m.mean), rstd = on_device(m.rstd);
  const auto flags = on_device(selected);
  const auto b = static_cast<int64_t>(selected.size());
  DeviceArray<float> bias(b * kOutputs), gain(b * kWidth), shift(b * kWidth), scales(b);
  DeviceArray<double> parts(kParts * b), row_squares(b), terms(b), magnitudes(b), squares(b), factors(b);
  DeviceArray<int32_t> sum(kParameters);
  sum.fill_bytes(0, nullptr);
  kernels->set_examples(m.offsets, m.ids);
  DeviceArray<float> rows(kernels->groups() * kWidth);
  for (int pass = 0; pass < 2; ++pass) {
    kernels->set_examples(m.offsets, m.ids);
    for (DeviceArray<double>* written : {&parts, &row_squares, &terms, &magnitudes})
      written->fill_bytes(unwritten_byte(), nullptr);
    run(*kernels, m, methods,
        {x.data(), g.data(), h.data(), z.data(), e.data(), mean.data(), rstd.data(), flags.data()},
        {bias.data(), gain.data(), shift.data(), rows.data(), parts.data(), row_squares.data(), terms.data(),
         magnitudes.data(), squares.data(), factors.data(), scales.data(), sum.data()});
  }
  return {squares.to_host(), factors.to_host(), sum.to_host()};
}

void a_steps_kernels_agree_with_loops_on_the_host(Failures& f) {
  const std::vector<DecayRange> decay = {{0, kParameters, true}};
  constexpr NormMethod kGram = NormMethod::kGram, kDirect = NormMethod::kDirect,
                       kMaterialise = NormMethod::kMaterialise;
  for (const Lengths& lengths : {Lengths{5}, Lengths{64, 0, 130, 7}, Lengths{200, 33}})
    for (const auto& [methods, cancels] : {std::pair{Methods{kGram, kGram}, false},
                                           {Methods{kDirect, kDirect}, false},
                                           {Methods{kGram, kGram}, true},
                                           {Methods{kMaterialise, kMaterialise}, false},
                                           {Methods{kMaterialise, kDirect}, false},
                                           {Methods{kMaterialise, kGram}, true},
                                           {Methods{kGram, kMaterialise}, false}}) {
      Model m(lengths);
      if (cancels) m.cancel();
      std::vector<uint8_t> selected(lengths.size(), 1);
      if (selected.size() > 3) selected[3] = 0;
      const Outcome host = on_host(m, selected, methods, decay), gpu = on_gpu(m, selected, methods, decay);
      double difference = 0, size = 0;
      for (size_t i = 0; i < host.sum.size(); ++i) {
        const double wanted = 2.0 * host.sum[i];
        difference += (gpu.sum[i] - wanted) * (gpu.sum[i] - wanted);
        size += wanted * wanted;
      }
      // A Gram norm's upper bound may lie 2^-8 above the square; sums of f32 and of double may round to
      // different numbers of bfloat16 where they are kept; every element may round to another integer.
      const double slack = methods.has(kGram) ? 0x1p-8 : methods.has(kMaterialise) ? 1e-3 : 1e-4;
      const double rounding = std::sqrt(static_cast<double>(kParameters * lengths.size())) * 2;
      f.expect(std::sqrt(difference) <= slack * std::sqrt(size) + rounding, "sum off by ",
               std::sqrt(difference), " of ", std::sqrt(size));
      for (size_t b = 0; b < lengths.size(); ++b) {
        if (selected[b] == 0) {
          f.expect(gpu.factors[b] == 0, "factor ", gpu.factors[b], " of an example that is not selected");
          continue;
        }
        const double relative = gpu.squares[b] / std::max(host.squares[b], 1e-300);
        f.expect(lengths[b] == 0 ? gpu.squares[b] == 0 : std::abs(relative - 1) <= slack, "length ",
                 lengths[b], ": squares ", gpu.squares[b], " for ", host.squares[b]);
        f.expect(std::abs(gpu.factors[b] - host.factors[b]) <= slack, "factor ", gpu.factors[b]);
      }
    }
}

}  // namespace

std::vector<Case> example_cases() {
  return {{"AStepsKernelsAgreeWithLoopsOnTheHost", a_steps_kernels_agree_with_loops_on_the_host}};
}

}  // namespace dpfa::kernels::cuda::suite
