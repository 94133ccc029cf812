// Gram norms, and the made inputs of the suite.
#include <bit>
#include <limits>

#include "kernels/cuda/gram_norm.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {

float value_of(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
uint16_t bits_of(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (std::isnan(v)) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

Matrix::Matrix(int64_t rows_in, int64_t columns_in)
    : rows(rows_in), columns(columns_in), stride((columns_in + 15) / 8 * 8), bits(rows_in * stride, 0x7FC0) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) set(r, c, 0);
}

Matrix random_matrix(uint64_t seed, int64_t rows, int64_t columns, float scale) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Matrix m(rows, columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) m.set(r, c, scale * normal(random));
  return m;
}

std::vector<uint16_t> contiguous(const Matrix& m) {
  std::vector<uint16_t> bits;
  for (int64_t r = 0; r < m.rows; ++r)
    bits.insert(bits.end(), m.bits.begin() + r * m.stride, m.bits.begin() + r * m.stride + m.columns);
  return bits;
}

void make_cancelling(uint64_t seed, Matrix& x, Matrix& g, float residue) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (int64_t t = 0; t + 1 < x.rows; t += 2) {
    for (int64_t c = 0; c < x.columns; ++c)
      x.set(t + 1, c, static_cast<float>(x.at(t, c)) * (1 + residue * normal(random)));
    for (int64_t c = 0; c < g.columns; ++c) g.set(t + 1, c, -static_cast<float>(g.at(t, c)));
  }
}

Matrix rows_of(const Matrix& matrix, int64_t begin, int64_t count) {
  Matrix part(count, matrix.columns);
  std::copy_n(matrix.bits.begin() + begin * matrix.stride, count * matrix.stride, part.bits.begin());
  return part;
}

const std::vector<Lengths>& batches() {
  static const std::vector<Lengths> all = {
      {}, {0}, {1}, {2}, {63, 64, 65}, {127, 0, 128, 1}, {129, 257, 2}, {0, 0, 5}, {300}};
  return all;
}

std::vector<int64_t> offsets_of(const Lengths& lengths) {
  std::vector<int64_t> offsets = {0};
  for (int64_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

std::vector<double> product(const Matrix& x, const Matrix& g, int64_t begin, int64_t end) {
  std::vector<double> w(x.columns * g.columns);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t i = 0; i < x.columns; ++i)
      for (int64_t j = 0; j < g.columns; ++j) w[i * g.columns + j] += x.at(t, i) * g.at(t, j);
  return w;
}

double squared_norm(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return sum;
}

namespace {

constexpr double kRounding = 1e-12;  // of sums in double, here and on the device

struct Layer {
  Matrix x, g;
  int64_t groups = 1;
  bool bias = false;
};

// The part [column, column + columns) of the squared norm of x^T g (and of the bias) over rows [begin, end).
double exact_squared(const Layer& layer, int64_t begin, int64_t end, int64_t column, int64_t columns) {
  Matrix g(layer.g.rows, columns);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t c = 0; c < columns; ++c)
      g.bits[t * g.stride + c] = layer.g.bits[t * layer.g.stride + column + c];
  double squared = squared_norm(product(layer.x, g, begin, end));
  for (int64_t c = 0; layer.bias && c < columns; ++c) {
    double sum = 0;
    for (int64_t t = begin; t < end; ++t) sum += g.at(t, c);
    squared += sum * sum;
  }
  return squared;
}

struct Run {
  std::vector<GramResult> results;  // (units, B)
  std::vector<uint8_t> certified;
  int64_t examples;
};

Run run(const std::vector<Layer>& layers, const std::vector<int64_t>& offsets, TensorPath path) {
  std::vector<DeviceArray<uint16_t>> memory;
  std::vector<GramMatrix> matrices;
  for (const Layer& layer : layers) {
    memory.emplace_back(std::span<const uint16_t>(layer.x.bits));
    memory.emplace_back(std::span<const uint16_t>(layer.g.bits));
    matrices.push_back({memory[memory.size() - 2].data(), layer.x.stride, layer.x.columns,
                        memory.back().data(), layer.g.stride, layer.g.columns, layer.groups, layer.bias});
  }
  GramNormPlan plan(matrices, offsets, path);
  plan.run(nullptr);
  check(cudaDeviceSynchronize(), "run of the Gram norms");
  Run result;
  result.examples = plan.examples();
  result.results.resize(plan.units() * plan.examples());
  result.certified.resize(result.results.size());
  if (!result.results.empty()) {
    check(cudaMemcpy(result.results.data(), plan.results(), result.results.size() * sizeof(GramResult),
                     cudaMemcpyDeviceToHost),
          "copy of results");
    check(cudaMemcpy(result.certified.data(), plan.certified(), result.certified.size(),
                     cudaMemcpyDeviceToHost),
          "copy of flags");
  }
  return result;
}

std::vector<TensorPath> paths() {
  if (compute_capability() == 90) return {TensorPath::kMmaSync, TensorPath::kWgmma};
  return {TensorPath::kMmaSync};
}
const char* name_of(TensorPath path) { return path == TensorPath::kWgmma ? "wgmma" : "mma.sync"; }

// Three layers of unlike shapes in one plan.
std::vector<Layer> layers_for(int64_t rows, uint64_t seed, float residue) {
  std::vector<Layer> layers;
  layers.push_back({random_matrix(seed, rows, 37), random_matrix(seed + 1, rows, 53)});
  layers.push_back({random_matrix(seed + 2, rows, 200), random_matrix(seed + 3, rows, 192), 3, true});
  layers.push_back({random_matrix(seed + 4, rows, 64), random_matrix(seed + 5, rows, 130), 1, true});
  if (residue < 1)
    for (Layer& layer : layers) make_cancelling(seed + 6, layer.x, layer.g, residue);
  return layers;
}

void norms_are_within_their_bounds(Failures& f) {
  uint64_t seed = 1;
  for (const TensorPath path : paths())
    for (const Lengths& lengths : batches())
      for (const float residue : {1.0f, 0.1f, 0.0f}) {
        const std::vector<int64_t> offsets = offsets_of(lengths);
        const std::vector<Layer> layers = layers_for(offsets.back(), seed += 10, residue);
        const Run got = run(layers, offsets, path);
        size_t at = 0;
        for (const Layer& layer : layers)
          for (int64_t group = 0; group < layer.groups; ++group)
            for (size_t b = 0; b < lengths.size(); ++b, ++at) {
              const int64_t width = layer.g.columns / layer.groups;
              const double exact = exact_squared(layer, offsets[b], offsets[b + 1], group * width, width);
              const GramResult& r = got.results[at];
              f.expect(std::abs(r.squared - exact) <= r.error + kRounding * exact, name_of(path), ", length ",
                       lengths[b], ", residue ", residue, ", unit and example ", at, ": ", r.squared, " +- ",
                       r.error, " for ", exact);
              f.expect(!got.certified[at] || upper_squared(r) <= exact * (1 + 0x1p-6) + 1e-300, name_of(path),
                       ": certified ", upper_squared(r), " for ", exact);
              f.expect(residue < 1 || got.certified[at], name_of(path), ", length ", lengths[b],
                       ": random data was not certified, error ", r.error, " of ", exact);
            }
      }
}

void an_example_has_its_bits_in_any_batch(Failures& f) {
  for (const TensorPath path : paths()) {
    const Lengths lengths = {70, 0, 257, 128, 1};
    const std::vector<int64_t> offsets = offsets_of(lengths);
    const std::vector<Layer> layers = layers_for(offsets.back(), 5, 1);
    const Run together = run(layers, offsets, path);
    for (size_t b = 0; b < lengths.size(); ++b) {
      std::vector<Layer> alone;
      for (const Layer& layer : layers)
        alone.push_back({rows_of(layer.x, offsets[b], lengths[b]), rows_of(layer.g, offsets[b], lengths[b]),
                         layer.groups, layer.bias});
      const Run single = run(alone, {0, lengths[b]}, path);
      for (size_t unit = 0; unit < single.results.size(); ++unit)
        f.expect(same_bits(single.results[unit], together.results[unit * lengths.size() + b]), name_of(path),
                 ": example ", b, " of unit ", unit, " alone and in a batch");
    }
  }
}

void what_is_not_finite_stays_with_its_example(Failures& f) {
  const Lengths lengths = {65, 200, 30};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  for (const TensorPath path : paths())
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
      for (const bool in_x : {true, false}) {
        std::vector<Layer> layers = layers_for(offsets.back(), 9, 1);
        const Run clean = run(layers, offsets, path);
        for (Layer& layer : layers) (in_x ? layer.x : layer.g).set(offsets[1] + 150, 3, bad);
        const Run got = run(layers, offsets, path);
        for (size_t i = 0; i < got.results.size(); ++i)
          if (i % lengths.size() != 1)
            f.expect(same_bits(got.results[i], clean.results[i]), name_of(path), ": a neighbour changed");
          else if (const size_t unit = i / lengths.size();
                   in_x || (unit != 2 && unit != 3))  // not in column 3
            f.expect(factor_of(upper_squared(got.results[i]), 1) == 0 && !got.certified[i], name_of(path),
                     ": a norm of ", bad, " gave ", got.results[i].squared);
      }
}

void outliers_and_tiny_numbers_stay_within_their_bounds(Failures& f) {
  for (const TensorPath path : paths())
    for (const float x_scale : {1e-30f, 1.0f, 1e15f})
      for (const float g_scale : {1e-38f, 1e-20f, 1.0f, 1e4f}) {
        const Layer layer = {random_matrix(1, 130, 37, x_scale), random_matrix(2, 130, 53, g_scale)};
        const Run got = run({layer}, {0, 130}, path);
        const double exact = exact_squared(layer, 0, 130, 0, 53);
        f.expect(std::abs(got.results[0].squared - exact) <= got.results[0].error + kRounding * exact,
                 name_of(path), ": ", got.results[0].squared, " +- ", got.results[0].error, " for ", exact);
      }
}

void a_sum_on_tensor_cores_is_within_its_bound(Failures& f) {
  // One token: the squared norm is one Gram entry times another, so the entries' own errors show. All
  // products have one sign: truncation adds up.
  for (const TensorPath path : paths())
    for (const int64_t width : {16, 64, 65, 1000, 4096}) {
      Layer layer = {random_matrix(3, 1, width), random_matrix(4, 1, 8)};
      for (int64_t c = 0; c < width; ++c) layer.x.set(0, c, std::abs(static_cast<float>(layer.x.at(0, c))));
      for (int64_t c = 1; c < 8; ++c) layer.g.set(0, c, 0);
      layer.g.set(0, 0, 1);
      const Run got = run({layer}, {0, 1}, path);
      const double exact = exact_squared(layer, 0, 1, 0, 8);
      f.expect(std::abs(got.results[0].squared - exact) <= product_error(width) * exact + kRounding * exact,
               name_of(path), ", ", width, " products: off by ", std::abs(got.results[0].squared / exact - 1),
               " with a bound of ", product_error(width));
    }
}

}  // namespace

std::vector<Case> gram_cases() {
  return {{"GramNormsAreWithinTheirBounds", norms_are_within_their_bounds},
          {"GramNormOfAnExampleHasItsBitsInAnyBatch", an_example_has_its_bits_in_any_batch},
          {"GramNormThatIsNotFiniteStaysWithItsExample", what_is_not_finite_stays_with_its_example},
          {"GramNormsOfOutliersAndTinyNumbersAreWithinTheirBounds",
           outliers_and_tiny_numbers_stay_within_their_bounds},
          {"TensorCoreSumIsWithinItsBound", a_sum_on_tensor_cores_is_within_its_bound}};
}

}  // namespace dpfa::kernels::cuda::suite
