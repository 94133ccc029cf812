// Products over tokens: squares, materialised gradients, integers, floats.
#include <algorithm>
#include <limits>
#include <optional>

#include "kernels/cuda/clip.h"
#include "kernels/cuda/segment_gemm.h"
#include "kernels/cuda/token_groups.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {
namespace {

constexpr double kRounding = 1e-12;
constexpr int kGridExponent = -20;

// The path of all plans below: that of the case that runs.
std::optional<TensorPath> tested_path;

// The case on every path that the device has.
Case on_every_path(const char* name, void (*run)(Failures&)) {
  return {name, [run](Failures& f) {
            for (const TensorPath path : device_paths()) {
              tested_path = path;
              run(f);
            }
          }};
}

// Two matrices one behind the other, the second tied to an embedding whose rows are added.
struct Batch {
  Lengths lengths;
  Matrix x, g, h, z;  // x^T g (37, 53); z^T h (150, 200)
  std::vector<int64_t> ids;
  Batch(uint64_t seed, const Lengths& lengths_in, float scale = 1)
      : lengths(lengths_in),
        x(random_matrix(seed, offsets_of(lengths_in).back(), 37)),
        g(random_matrix(seed + 1, x.rows, 53, scale)),
        h(random_matrix(seed + 2, x.rows, 200)),
        z(random_matrix(seed + 3, x.rows, 150, scale)) {
    std::mt19937_64 random(seed);
    for (int64_t t = 0; t < x.rows; ++t) ids.push_back(static_cast<int64_t>(random() % 150));
  }
  Batch alone(size_t b) const {
    const int64_t begin = offsets_of(lengths)[b], count = lengths[b];
    Batch one(*this);
    one.lengths = {count};
    one.x = rows_of(x, begin, count), one.g = rows_of(g, begin, count);
    one.h = rows_of(h, begin, count), one.z = rows_of(z, begin, count);
    one.ids.assign(ids.begin() + begin, ids.begin() + begin + count);
    return one;
  }
};
constexpr int64_t kFirst = 37 * 53, kParameters = kFirst + 150 * 200;

// A value of the extra row of (token group, column): any numbers do.
float extra_value(int64_t id, int64_t column) {
  return 0.01f * static_cast<float>((id * 31 + column * 7) % 41 - 20);
}

class Device {
 public:
  explicit Device(const Batch& batch)
      : offsets_(offsets_of(batch.lengths)),
        groups_(token_groups(batch.ids, offsets_)),
        x_(std::span<const uint16_t>(batch.x.bits)),
        g_(std::span<const uint16_t>(batch.g.bits)),
        h_(std::span<const uint16_t>(batch.h.bits)),
        z_(std::span<const uint16_t>(batch.z.bits)),
        ids_(std::span<const int64_t>(groups_.ids)),
        first_(std::span<const int64_t>(groups_.first_group)) {
    std::vector<float> rows;
    for (int64_t id : groups_.ids)
      for (int64_t c = 0; c < 200; ++c) rows.push_back(extra_value(id, c));
    rows_ = DeviceArray<float>(std::span<const float>(rows));
    const std::vector<SegmentProduct> products = {
        {x_.data(), batch.x.stride, 37, g_.data(), batch.g.stride, 53, 0, {}},
        {z_.data(),
         batch.z.stride,
         150,
         h_.data(),
         batch.h.stride,
         200,
         kFirst,
         {ids_.data(), rows_.data(), first_.data()}}};
    plan_.emplace(products, offsets_, tested_path);
  }
  SegmentGemmPlan& plan() { return *plan_; }
  int64_t examples() const { return static_cast<int64_t>(offsets_.size()) - 1; }

  std::vector<double> squares(const std::vector<uint8_t>& active) {
    const DeviceArray<uint8_t> flags{std::span<const uint8_t>(active)};
    DeviceArray<double> squares(static_cast<int64_t>(active.size()));
    plan_->squares(flags.data(), squares.data(), nullptr);
    return squares.to_host();
  }
  std::vector<int32_t> integers(const std::vector<float>& scales, int32_t start = 0) {
    const DeviceArray<float> on_device{std::span<const float>(scales)};
    DeviceArray<int32_t> sum{std::span<const int32_t>(std::vector<int32_t>(kParameters, start))};
    plan_->add_integers(on_device.data(), sum.data(), nullptr);
    return sum.to_host();
  }

 private:
  std::vector<int64_t> offsets_;
  TokenGroups groups_;
  DeviceArray<uint16_t> x_, g_, h_, z_;
  DeviceArray<int64_t> ids_, first_;
  DeviceArray<float> rows_;
  std::optional<SegmentGemmPlan> plan_;
};

// Example b's gradient of both matrices in double, and what |x| |g| sums to, which bounds its error.
struct Reference {
  std::vector<double> gradient;
  double magnitude[2] = {0, 0};
  double squared(int matrix) const {
    double sum = 0;
    const size_t begin = matrix == 0 ? 0 : kFirst, end = matrix == 0 ? kFirst : kParameters;
    for (size_t i = begin; i < end; ++i) sum += gradient[i] * gradient[i];
    return sum;
  }
};
Reference reference(const Batch& batch, size_t b) {
  const std::vector<int64_t> offsets = offsets_of(batch.lengths);
  Reference r;
  r.gradient = product(batch.x, batch.g, offsets[b], offsets[b + 1]);
  std::vector<double> table = product(batch.z, batch.h, offsets[b], offsets[b + 1]);
  std::vector<bool> seen(150);
  for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
    if (!seen[batch.ids[t]])
      for (int64_t c = 0; c < 200; ++c) table[batch.ids[t] * 200 + c] += extra_value(batch.ids[t], c);
    seen[batch.ids[t]] = true;
    const auto norm = [t](const Matrix& m) {
      double sum = 0;
      for (int64_t c = 0; c < m.columns; ++c) sum += m.at(t, c) * m.at(t, c);
      return std::sqrt(sum);
    };
    r.magnitude[0] += norm(batch.x) * norm(batch.g);
    r.magnitude[1] += norm(batch.z) * norm(batch.h);
  }
  r.gradient.insert(r.gradient.end(), table.begin(), table.end());
  return r;
}

void squares_are_those_of_the_gradients(Failures& f) {
  for (const Lengths& lengths : batches()) {
    const Batch batch(3, lengths);
    Device device(batch);
    const size_t examples = lengths.size();
    const std::vector<double> squares = device.squares(std::vector<uint8_t>(2 * examples, 1));
    for (size_t b = 0; b < examples; ++b) {
      const Reference r = reference(batch, b);
      for (int m = 0; m < 2; ++m) {
        // 2^-24: the extra row is added in f32.
        const double error =
            (product_error(lengths[b]) + 0x1p-23) * (r.magnitude[m] + std::sqrt(r.squared(m)));
        const double got = squares[m * examples + b];
        f.expect(std::abs(std::sqrt(got) - std::sqrt(r.squared(m))) <= error + 1e-9, "matrix ", m,
                 ", length ", lengths[b], ": ", got, " for ", r.squared(m));
      }
    }
  }
}

void a_matrix_of_many_tiles_is_measured_and_added_whole(Failures& f) {
  constexpr int64_t kRows = 1100, kColumns = 140, kTokens = 20;  // two bands of tiles
  const Matrix left = random_matrix(15, kTokens, kRows), right = random_matrix(16, kTokens, kColumns);
  const DeviceArray<uint16_t> l{std::span<const uint16_t>(left.bits)},
      r{std::span<const uint16_t>(right.bits)};
  const std::vector<SegmentProduct> products = {
      {l.data(), left.stride, kRows, r.data(), right.stride, kColumns, 0, {}}};
  const std::vector<int64_t> offsets = {0, kTokens};
  SegmentGemmPlan plan(products, offsets, tested_path);
  const DeviceArray<uint8_t> active{std::span<const uint8_t>(std::vector<uint8_t>(1, 1))};
  const DeviceArray<float> scales{std::span<const float>(std::vector<float>(1, 1024.0f))};
  DeviceArray<double> squares(1);
  DeviceArray<int32_t> sum{std::span<const int32_t>(std::vector<int32_t>(kRows * kColumns, 0))};
  plan.squares(active.data(), squares.data(), nullptr);
  plan.add_integers(scales.data(), sum.data(), nullptr);
  const std::vector<double> exact = product(left, right, 0, kTokens);
  const double squared = squared_norm(exact), got = squares.to_host()[0];
  f.expect(std::abs(got - squared) <= 1e-5 * squared, "squares ", got, " for ", squared);
  const std::vector<int32_t> integers = sum.to_host();
  // Half a step, and the error of a product whose magnitudes add up to less than 100.
  const double error = 0.5 + 1024 * product_error(kTokens) * 100;
  for (int64_t i = 0; i < kRows * kColumns; ++i)
    f.expect(std::abs(integers[i] - 1024 * exact[i]) <= error, "element ", i, ": ", integers[i], " for ",
             1024 * exact[i]);
}

// Without a path of its own a plan takes the device's first, and another where a matrix does not fit.
void a_plan_takes_a_path_that_its_matrices_fit(Failures& f) {
  const Matrix left = random_matrix(17, 1, 37), right = random_matrix(18, 1, 53);
  const DeviceArray<uint16_t> l{std::span<const uint16_t>(left.bits)},
      r{std::span<const uint16_t>(right.bits)};
  const std::vector<int64_t> offsets = {0, 1};
  const auto product_at = [&](int64_t stride) {
    return std::vector<SegmentProduct>{{l.data(), stride, 37, r.data(), right.stride, 53, 0, {}}};
  };
  const SegmentGemmPlan usual(product_at(left.stride), offsets);
  f.expect(usual.path() == device_paths().front(), "took ", to_string(usual.path()));
  // Beyond what a tensor map can step over. Of one row it is never read.
  const std::vector<SegmentProduct> wide = product_at(int64_t{1} << 39);
  SegmentGemmPlan plan(wide, offsets);
  f.expect(plan.path() == TensorPath::kMmaSync, "a stride that wgmma cannot: took ", to_string(plan.path()));
  const DeviceArray<uint8_t> active{std::span<const uint8_t>(std::vector<uint8_t>(1, 1))};
  DeviceArray<double> squares(1);
  plan.squares(active.data(), squares.data(), nullptr);
  const double squared = squared_norm(product(left, right, 0, 1)), got = squares.to_host()[0];
  f.expect(std::abs(got - squared) <= 1e-5 * squared, "squares ", got, " for ", squared);
  bool refused = false;
  try {
    SegmentGemmPlan asked(wide, offsets, TensorPath::kWgmma);
  } catch (const Unsupported&) {
    refused = true;
  }
  f.expect(refused, "wgmma was asked for and something else was taken");
}

void only_active_examples_are_measured(Failures& f) {
  const Batch batch(4, {70, 130, 20});
  Device device(batch);
  const std::vector<double> all = device.squares(std::vector<uint8_t>(6, 1));
  const std::vector<uint8_t> active = {1, 0, 1, 0, 1, 0};
  const std::vector<double> some = device.squares(active);
  for (size_t i = 0; i < 6; ++i)
    if (active[i] != 0)
      f.expect(same_bits(some[i], all[i]), "an active example changed");
    else
      f.expect(std::isnan(some[i]), "what was not measured reads ", some[i]);
}

// The contribution of the only example, scaled by the factor that its measured norm asks for.
std::vector<int32_t> contribution(Device& device, double max_norm, double* measured) {
  const std::vector<double> squares = device.squares({1, 1});
  *measured = std::sqrt(squares[0] + squares[1]);
  const double factor = factor_of(squares[0] + squares[1], max_norm);
  float scale = static_cast<float>(factor);
  if (static_cast<double>(scale) > factor) scale = std::nextafter(scale, 0.0f);
  return device.integers({std::ldexp(scale, -kGridExponent)});
}

void no_example_adds_more_than_the_clipping_norm(Failures& f) {
  for (const int64_t length : {1, 2, 64, 65, 130, 300})
    for (const float residue : {0.0f, 0.02f, 0.3f, 1.0f})
      for (const float scale : {1e-3f, 1.0f, 1e3f})
        for (const double max_norm : {0.1, 1.0, 30.0}) {
          Batch batch(7, {length}, scale);
          if (residue < 1) {
            make_cancelling(8, batch.x, batch.g, residue);
            make_cancelling(9, batch.h, batch.z, residue);
          }
          Device device(batch);
          double measured = 0, squared = 0;
          for (const int32_t v : contribution(device, max_norm, &measured)) {
            const double value = std::ldexp(v, kGridExponent);
            squared += value * value;
          }
          // Rounding moves every element by half a step at most.
          const double rounding =
              std::ldexp(0.5 * std::sqrt(static_cast<double>(kParameters)), kGridExponent);
          f.expect(std::sqrt(squared) <= std::min(measured, max_norm) * (1 + 0x1p-23) + rounding, "length ",
                   length, ", residue ", residue, ", C = ", max_norm, ": norm ", std::sqrt(squared),
                   ", measured ", measured);
        }
}

void integers_of_a_batch_are_the_sum_of_those_of_its_examples(Failures& f) {
  for (const Lengths& lengths : batches()) {
    const Batch batch(11, lengths, 0.01f);
    std::vector<float> scales;
    for (size_t b = 0; b < lengths.size(); ++b)
      scales.push_back(b % 4 == 2 ? 0.0f : 1000.0f + static_cast<float>(b));
    std::vector<int32_t> expected(kParameters, 5);
    for (size_t b = 0; b < lengths.size(); ++b) {
      if (scales[b] == 0) continue;
      Device alone(batch.alone(b));
      const std::vector<int32_t> one = alone.integers({scales[b]});
      for (int64_t i = 0; i < kParameters; ++i) expected[i] += one[i];
    }
    Device together(batch);
    f.expect(together.integers(scales, 5) == expected, "a batch of ", lengths.size(), " examples");
  }
}

void an_example_that_is_not_finite_is_left_out(Failures& f) {
  Batch batch(12, {65, 129, 40}, 0.01f);
  Device clean(batch);
  const std::vector<int32_t> expected = clean.integers({1000, 0, 2000});
  f.expect(clean.integers({1000, std::numeric_limits<float>::quiet_NaN(), 2000}) == expected,
           "an example whose factor is NaN was added");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    batch.x.set(65 + 100, 3, bad);
    batch.z.set(65 + 7, 9, bad);
    Device device(batch);
    f.expect(device.integers({1000, 0, 2000}) == expected, bad,
             " of an example with factor 0 reached the sum");
    const std::vector<double> squares = device.squares(std::vector<uint8_t>(6, 1));
    f.expect(factor_of(squares[1], 1) == 0 && factor_of(squares[4], 1) == 0, bad, " was measured as ",
             squares[1]);
    f.expect(std::isfinite(squares[0]) && std::isfinite(squares[2]), "a neighbour's norm is not finite");
  }
}

void materialised_gradients_are_measured_after_rounding(Failures& f) {
  for (const Lengths& lengths : batches()) {
    const Batch batch(13, lengths, 0.01f);
    Device device(batch);
    const auto examples = static_cast<int64_t>(lengths.size());
    const DeviceArray<uint8_t> active{std::span<const uint8_t>(std::vector<uint8_t>(2 * examples, 1))};
    DeviceArray<uint16_t> gradients(examples * kParameters);
    gradients.fill_bytes(0xFF, nullptr);  // NaN: of an example without tokens nothing may be read
    DeviceArray<double> squares(2 * examples);
    device.plan().materialise(active.data(), gradients.data(), squares.data(), nullptr);
    const std::vector<float> scales(examples, 4096.0f);
    const DeviceArray<float> on_device{std::span<const float>(scales)};
    DeviceArray<int32_t> sum{std::span<const int32_t>(std::vector<int32_t>(kParameters, 1))};
    device.plan().add_materialised(on_device.data(), gradients.data(), sum.data(), nullptr);
    const std::vector<uint16_t> bits = gradients.to_host();
    const std::vector<double> got = squares.to_host();
    std::vector<int32_t> expected(kParameters, 1);
    for (int64_t b = 0; b < examples; ++b) {
      double squared[2] = {0, 0};
      for (int64_t i = 0; i < kParameters && lengths[b] > 0; ++i) {
        const float v = value_of(bits[b * kParameters + i]);
        squared[i >= kFirst] += static_cast<double>(v) * v;
        expected[i] += static_cast<int32_t>(std::rint(v * 4096.0f));
      }
      for (int m = 0; m < 2; ++m)
        f.expect(std::abs(got[m * examples + b] - squared[m]) <= kRounding * squared[m],
                 "squares of example ", b, ": ", got[m * examples + b], " for ", squared[m]);
    }
    f.expect(sum.to_host() == expected, "integers of materialised gradients");
  }
}

void float_sums_are_within_their_bound(Failures& f) {
  const Batch batch(14, {65, 0, 129, 300});
  Device device(batch);
  const std::vector<float> factors = {0.5f, 1.0f, 0.0f, 0.001f};
  const DeviceArray<float> on_device{std::span<const float>(factors)};
  DeviceArray<float> sum{std::span<const float>(std::vector<float>(kParameters, 1.0f))};
  device.plan().add_floats(on_device.data(), sum.data(), nullptr);
  const std::vector<float> got = sum.to_host();
  std::vector<double> expected(kParameters, 1.0);
  for (size_t b = 0; b < 4; ++b) {
    const Reference r = reference(batch, b);
    for (int64_t i = 0; i < kParameters; ++i) expected[i] += static_cast<double>(factors[b]) * r.gradient[i];
  }
  for (int64_t i = 0; i < kParameters; ++i)
    f.expect(std::abs(got[i] - expected[i]) <= 1e-3, "element ", i, ": ", got[i], " for ", expected[i]);
}

void factors_and_scales_round_down(Failures& f) {
  const std::vector<double> squares = {0, 1e-8, 4, 9, std::nan(""), std::numeric_limits<double>::infinity(),
                                       2, 3};
  const std::vector<uint8_t> selected = {1, 1, 1, 1, 1, 1, 0, 1};
  const DeviceArray<double> a{std::span<const double>(squares)};
  const DeviceArray<uint8_t> b{std::span<const uint8_t>(selected)};
  DeviceArray<double> factors(8);
  DeviceArray<float> scales(8);
  for (const Clipping& clip : {Clipping(1), Clipping(1, ClipRule::kAutomatic)}) {
    clip_scales(a.data(), b.data(), 8, clip, kGridExponent, factors.data(), scales.data(), nullptr);
    const std::vector<double> factor = factors.to_host();
    const std::vector<float> scale = scales.to_host();
    for (size_t i = 0; i < 8; ++i) {
      const double expected = selected[i] != 0 ? factor_of(squares[i], clip) : 0;
      f.expect(std::abs(factor[i] - expected) <= 1e-15 * expected, "factor of ", squares[i], ": ", factor[i]);
      f.expect(scale[i] <= factor[i] * 0x1p20 && scale[i] >= factor[i] * 0x1p20 * (1 - 0x1p-23), "scale ",
               scale[i]);
    }
  }
}

}  // namespace

std::vector<Case> product_cases() {
  return {on_every_path("SquaresAreThoseOfTheGradients", squares_are_those_of_the_gradients),
          on_every_path("AMatrixOfManyTilesIsMeasuredAndAddedWhole",
                        a_matrix_of_many_tiles_is_measured_and_added_whole),
          {"APlanTakesAPathThatItsMatricesFit", a_plan_takes_a_path_that_its_matrices_fit},
          on_every_path("OnlyActiveExamplesAreMeasured", only_active_examples_are_measured),
          on_every_path("NoExampleAddsMoreThanTheClippingNorm", no_example_adds_more_than_the_clipping_norm),
          on_every_path("IntegersOfABatchAreTheSumOfThoseOfItsExamples",
                        integers_of_a_batch_are_the_sum_of_those_of_its_examples),
          on_every_path("AnExampleThatIsNotFiniteIsLeftOut", an_example_that_is_not_finite_is_left_out),
          on_every_path("MaterialisedGradientsAreMeasuredAfterRounding",
                        materialised_gradients_are_measured_after_rounding),
          on_every_path("FloatSumsAreWithinTheirBound", float_sums_are_within_their_bound),
          on_every_path("FactorsAndScalesRoundDown", factors_and_scales_round_down)};
}

}  // namespace dpfa::kernels::cuda::suite
