// Clipped sums of products, by the list of properties that the CPU's routes share.
#include "kernels/cuda/clip.h"
#include "kernels/cuda/segment_gemm.h"
#include "tests/kernels/cuda/suite.h"
#include "tests/kernels/product_properties.h"

namespace dpfa::kernels::cuda::suite {
namespace {

ClippedSum clip(TensorPath path, const std::vector<Product>& products, const std::vector<int64_t>& offsets,
                const std::vector<uint8_t>& selected, double max_grad_norm) {
  std::vector<DeviceArray<uint16_t>> memory;
  std::vector<SegmentProduct> segments;
  int64_t parameters = 0;
  for (const Product& p : products) {
    memory.emplace_back(std::span<const uint16_t>(p.x.bits));
    memory.emplace_back(std::span<const uint16_t>(p.g.bits));
    segments.push_back({memory[memory.size() - 2].data(),
                        p.x.stride,
                        p.x.columns,
                        memory.back().data(),
                        p.g.stride,
                        p.g.columns,
                        parameters,
                        {}});
    parameters += p.x.columns * p.g.columns;
  }
  SegmentGemmPlan plan(segments, offsets, path);
  const int64_t matrices = plan.matrices(), examples = plan.examples();
  std::vector<uint8_t> of_matrices;
  for (int64_t m = 0; m < matrices; ++m)
    of_matrices.insert(of_matrices.end(), selected.begin(), selected.end());
  const DeviceArray<uint8_t> active{std::span<const uint8_t>(of_matrices)},
      counted{std::span<const uint8_t>(selected)};
  DeviceArray<double> parts(matrices * examples), squares(examples), factors(examples);
  DeviceArray<float> scales(examples);
  DeviceArray<int32_t> sum{std::span<const int32_t>(std::vector<int32_t>(parameters, 0))};
  plan.squares(active.data(), parts.data(), nullptr);
  sum_parts(parts.data(), matrices, examples, squares.data(), nullptr);
  clip_scales(squares.data(), counted.data(), examples, max_grad_norm, kSumExponent, factors.data(),
              scales.data(), nullptr);
  plan.add_integers(scales.data(), sum.data(), nullptr);
  ClippedSum result = {squares.to_host(), factors.to_host(), sum.to_host()};
  for (double& norm : result.norms) norm = std::sqrt(norm);
  return result;
}

// On each path of the device.
Case on_every_path(const char* name, void (*property)(Failures&, const ClippingBackend&)) {
  return {name, [property](Failures& f) {
            for (const TensorPath path : device_paths())
              property(
                  f, {to_string(path), [path](const auto&... arguments) { return clip(path, arguments...); },
                      product_error(300)});
          }};
}

}  // namespace

std::vector<Case> clipping_cases() {
  return {on_every_path("EveryExampleIsAddedWithItsOwnFactor", every_example_is_added_with_its_own_factor),
          on_every_path("IntegersOfABatchAreThoseOfItsExamplesAlone",
                        integers_of_a_batch_are_those_of_its_examples_alone),
          on_every_path("AnExampleThatIsNotFiniteAddsNothing", an_example_that_is_not_finite_adds_nothing)};
}

}  // namespace dpfa::kernels::cuda::suite
