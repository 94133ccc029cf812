// Gram norms.
#include "kernels/cuda/gram_norm.h"
#include "tests/kernels/cuda/suite.h"
#include "tests/kernels/gram_properties.h"

namespace dpfa::kernels::cuda::suite {
namespace {

std::vector<UnitNorm> run(const std::vector<Layer>& layers, const std::vector<int64_t>& offsets,
                          TensorPath path) {
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
  std::vector<GramResult> results(plan.units() * plan.examples());
  std::vector<uint8_t> certified(results.size());
  if (!results.empty()) {
    check(cudaMemcpy(results.data(), plan.results(), results.size() * sizeof(GramResult),
                     cudaMemcpyDeviceToHost),
          "copy of results");
    check(cudaMemcpy(certified.data(), plan.certified(), certified.size(), cudaMemcpyDeviceToHost),
          "copy of flags");
  }
  std::vector<UnitNorm> norms;
  for (size_t i = 0; i < results.size(); ++i)
    norms.push_back({results[i].squared, results[i].error, certified[i] != 0});
  return norms;
}

// A property of every backend, on each path of the device.
Case on_every_path(const std::string& name, void (*property)(Failures&, const GramBackend&)) {
  return {name, [property](Failures& f) {
            for (const TensorPath path : device_paths()) {
              const auto measure = [path](const std::vector<Layer>& layers,
                                          const std::vector<int64_t>& offsets) {
                return run(layers, offsets, path);
              };
              property(f, {to_string(path), measure, /*certified_tokens=*/300});
            }
          }};
}

void a_sum_on_tensor_cores_is_within_its_bound(Failures& f) {
  // One token: the squared norm is one Gram entry times another, so the entries' own errors show. All
  // products have one sign: truncation adds up.
  for (const TensorPath path : device_paths())
    for (const int64_t width : {16, 64, 65, 1000, 4096}) {
      Layer layer = {random_matrix(3, 1, width), random_matrix(4, 1, 8)};
      for (int64_t c = 0; c < width; ++c) layer.x.set(0, c, std::abs(static_cast<float>(layer.x.at(0, c))));
      for (int64_t c = 1; c < 8; ++c) layer.g.set(0, c, 0);
      layer.g.set(0, 0, 1);
      const double squared = run({layer}, {0, 1}, path)[0].squared;
      const double exact = exact_squared(layer, 0, 1, 0, 8);
      f.expect(std::abs(squared - exact) <= product_error(width) * exact + kRounding * exact, to_string(path),
               ", ", width, " products: off by ", std::abs(squared / exact - 1), " with a bound of ",
               product_error(width));
    }
}

void a_long_example_is_within_its_bound(Failures& f) {
  for (const TensorPath path : device_paths()) {
    const Layer layer = {random_matrix(5, 700, 72), random_matrix(6, 700, 64), 1, true};
    const UnitNorm norm = run({layer}, {0, 700}, path)[0];
    const double exact = exact_squared(layer, 0, 700, 0, 64);
    f.expect(std::abs(norm.squared - exact) <= norm.error + kRounding * exact, to_string(path), ": ",
             norm.squared, " +- ", norm.error, " for ", exact);
  }
}

void groups_narrower_than_a_depth_step_have_norms_of_their_own(Failures& f) {
  constexpr int64_t kWidth = 24, kGroups = 3;
  const Layer layer = {random_matrix(7, 130, 40), random_matrix(8, 130, kGroups * kWidth), kGroups, true};
  const std::vector<UnitNorm> norms = run({layer}, {0, 130}, TensorPath::kMmaSync);
  for (int64_t group = 0; group < kGroups; ++group) {
    const double exact = exact_squared(layer, 0, 130, group * kWidth, kWidth);
    const UnitNorm& norm = norms[static_cast<size_t>(group)];
    f.expect(std::abs(norm.squared - exact) <= norm.error + kRounding * exact, "group ", group, ": ",
             norm.squared, " +- ", norm.error, " for ", exact);
  }
}

}  // namespace

std::vector<Case> gram_cases() {
  return {
      on_every_path("GramNormsAreWithinTheirBounds", norms_are_within_their_bounds),
      on_every_path("GramNormOfAnExampleHasItsBitsInAnyBatch", an_example_has_its_bits_in_any_batch),
      on_every_path("GramNormThatIsNotFiniteStaysWithItsExample", what_is_not_finite_stays_with_its_example),
      on_every_path("GramNormsOfOutliersAndTinyNumbersAreWithinTheirBounds",
                    outliers_and_tiny_numbers_stay_within_their_bounds),
      {"TensorCoreSumIsWithinItsBound", a_sum_on_tensor_cores_is_within_its_bound},
      {"GramNormOfALongExampleIsWithinItsBound", a_long_example_is_within_its_bound},
      {"GroupsNarrowerThanADepthStepHaveNormsOfTheirOwn",
       groups_narrower_than_a_depth_step_have_norms_of_their_own}};
}

}  // namespace dpfa::kernels::cuda::suite
