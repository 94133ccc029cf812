#include "tests/kernels/gram_properties.h"

#include <limits>

namespace dpfa::kernels::made {
namespace {

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

bool same_norm(const UnitNorm& a, const UnitNorm& b) {
  return same_bits(a.squared, b.squared) && same_bits(a.error, b.error) && a.certified == b.certified;
}

// At least the true squared norm.
double upper(const UnitNorm& norm) { return norm.squared + norm.error; }

}  // namespace

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

void norms_are_within_their_bounds(Failures& f, const GramBackend& backend) {
  uint64_t seed = 1;
  for (const Lengths& lengths : batches())
    for (const float residue : {1.0f, 0.1f, 0.0f}) {
      const std::vector<int64_t> offsets = offsets_of(lengths);
      const std::vector<Layer> layers = layers_for(offsets.back(), seed += 10, residue);
      const std::vector<UnitNorm> got = backend.measure(layers, offsets);
      f.expect(got.size() == 5 * lengths.size(), backend.name, ": ", got.size(), " norms");
      size_t at = 0;
      for (const Layer& layer : layers)
        for (int64_t group = 0; group < layer.groups; ++group)
          for (size_t b = 0; b < lengths.size(); ++b, ++at) {
            const int64_t width = layer.g.columns / layer.groups;
            const double exact = exact_squared(layer, offsets[b], offsets[b + 1], group * width, width);
            const UnitNorm& norm = got[at];
            f.expect(std::abs(norm.squared - exact) <= norm.error + kRounding * exact, backend.name,
                     ", length ", lengths[b], ", residue ", residue, ", unit and example ", at, ": ",
                     norm.squared, " +- ", norm.error, " for ", exact);
            f.expect(!norm.certified || upper(norm) <= exact * (1 + 0x1p-6) + 1e-300, backend.name,
                     ": certified ", upper(norm), " for ", exact);
            f.expect(residue < 1 || lengths[b] > backend.certified_tokens || norm.certified, backend.name,
                     ", length ", lengths[b], ": random data was not certified, error ", norm.error, " of ",
                     exact);
          }
    }
}

void an_example_has_its_bits_in_any_batch(Failures& f, const GramBackend& backend) {
  const Lengths lengths = {70, 0, 257, 128, 1};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  const std::vector<Layer> layers = layers_for(offsets.back(), 5, 1);
  const std::vector<UnitNorm> together = backend.measure(layers, offsets);
  for (size_t b = 0; b < lengths.size(); ++b) {
    std::vector<Layer> alone;
    for (const Layer& layer : layers)
      alone.push_back({rows_of(layer.x, offsets[b], lengths[b]), rows_of(layer.g, offsets[b], lengths[b]),
                       layer.groups, layer.bias});
    const std::vector<UnitNorm> single = backend.measure(alone, {0, lengths[b]});
    for (size_t unit = 0; unit < single.size(); ++unit)
      f.expect(same_norm(single[unit], together[unit * lengths.size() + b]), backend.name, ": example ", b,
               " of unit ", unit, " alone and in a batch");
  }
}

void what_is_not_finite_stays_with_its_example(Failures& f, const GramBackend& backend) {
  const Lengths lengths = {65, 200, 30};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (const bool in_x : {true, false}) {
      std::vector<Layer> layers = layers_for(offsets.back(), 9, 1);
      const std::vector<UnitNorm> clean = backend.measure(layers, offsets);
      for (Layer& layer : layers) (in_x ? layer.x : layer.g).set(offsets[1] + 150, 3, bad);
      const std::vector<UnitNorm> got = backend.measure(layers, offsets);
      for (size_t i = 0; i < got.size(); ++i) {
        const size_t unit = i / lengths.size();
        if (i % lengths.size() != 1)
          f.expect(same_norm(got[i], clean[i]), backend.name, ": a neighbour changed");
        else if (in_x || (unit != 2 && unit != 3))  // whose blocks have no column 3
          f.expect(!std::isfinite(std::sqrt(upper(got[i]))) && !got[i].certified, backend.name,
                   ": a norm of ", bad, " gave ", got[i].squared);
      }
    }
}

void outliers_and_tiny_numbers_stay_within_their_bounds(Failures& f, const GramBackend& backend) {
  for (const float x_scale : {1e-30f, 1.0f, 1e15f})
    for (const float g_scale : {1e-38f, 1e-20f, 1.0f, 1e4f})
      for (const bool bias : {false, true}) {
        const Layer layer = {random_matrix(1, 130, 37, x_scale), random_matrix(2, 130, 53, g_scale), 1, bias};
        const UnitNorm got = backend.measure({layer}, {0, 130})[0];
        const double exact = exact_squared(layer, 0, 130, 0, 53);
        f.expect(std::abs(got.squared - exact) <= got.error + kRounding * exact, backend.name, ": ",
                 got.squared, " +- ", got.error, " for ", exact);
      }
}

}  // namespace dpfa::kernels::made
