// gpu_bench norms|noise|products|step [--batch N] [--sequence N] [--layers N] [--width N] [--vocab N]
//           [--repeats N] [--slots N] [--compute bf16|fp32] [--norms auto|gram|direct|materialise]
//           [--recompute]
// gpu_bench step --check
//
// norms, products: the GPU kernels on the linear layers of a GPT-2 of the given shape (untied head, bf16);
// noise: the release. step: whole training steps, with LibTorch (--slots, --compute, --norms, --recompute are
// of this verb). --check times nothing: it compares steps with the CPU's; exit code 1 where they differ.
// The others time each case beside its baseline, in turn, in one process, by events on one stream, and print
// one JSON object as `dpfa bench --json` does; seconds are medians. norms and products have a row for each of
// the device's tensor paths, and "kernels" says which one the plan took. Exit code 6 where there is no GPU
// or, for step, no LibTorch: nothing was measured.
#include "kernels/cuda/gpu_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/clip.h"
#include "kernels/cuda/gram_norm.h"
#include "kernels/cuda/noisy_step.h"
#include "kernels/cuda/segment_gemm.h"

namespace dpfa::kernels::cuda {
namespace {

// Medians of both, timed in turn after three rounds that are not.
Timing time_in_turn(const std::string& name, int64_t repeats, const std::function<void()>& one,
                    const std::string& baseline, const std::function<void()>& other) {
  std::vector<double> seconds, baseline_seconds;
  Event start, middle, end;
  for (int64_t k = -3; k < repeats; ++k) {
    start.record();
    one();
    middle.record();
    other();
    end.record();
    const double first = middle.seconds_since(start), second = end.seconds_since(middle);
    if (k < 0) continue;
    seconds.push_back(first);
    baseline_seconds.push_back(second);
  }
  return {name, median(seconds), median(baseline_seconds), baseline};
}

// (rows, columns) of random bfloat16 numbers: constants would draw less power than real data and clock
// higher.
struct Operand {
  int64_t columns, stride;
  DeviceArray<uint16_t> data;
  Operand(int64_t rows, int64_t columns_in)
      : columns(columns_in), stride((columns_in + 63) / 64 * 64), data(rows * stride) {
    static const std::vector<uint16_t> block = [] {
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      std::vector<uint16_t> bits(1 << 20);
      for (uint16_t& b : bits) {
        const float v = normal(random);
        uint32_t word;
        std::memcpy(&word, &v, sizeof(word));
        b = static_cast<uint16_t>(word >> 16);
      }
      return bits;
    }();
    for (int64_t begin = 0; begin < data.size(); begin += static_cast<int64_t>(block.size())) {
      const auto count = static_cast<size_t>(std::min<int64_t>(block.size(), data.size() - begin));
      check(cudaMemcpy(data.data() + begin, block.data(), count * 2, cudaMemcpyHostToDevice),
            "copy of made data");
    }
  }
};

// Operands and plans of all linear layers for one microbatch.
class Layers {
 public:
  Layers(const BenchShape& s, std::optional<TensorPath> path) : shape_(s) {
    for (int64_t b = 0; b <= s.batch; ++b) offsets_.push_back(b * s.sequence);
    for (int64_t layer = 0; layer < s.layers; ++layer) {
      add(s.width, 3 * s.width);
      add(s.width, s.width);
      add(s.width, 4 * s.width);
      add(4 * s.width, s.width);
    }
    add(s.width, s.vocab);
    norms_.emplace_back(gram_, offsets_, path);
    products_.emplace_back(segments_, offsets_, path);
  }
  int64_t parameters() const { return parameters_; }
  int64_t matrices() const { return static_cast<int64_t>(gram_.size()); }
  GramNormPlan& norms() { return norms_.front(); }
  SegmentGemmPlan& products() { return products_.front(); }

 private:
  void add(int64_t inputs, int64_t outputs) {
    const int64_t rows = shape_.batch * shape_.sequence;
    operands_.emplace_back(rows, inputs);
    operands_.emplace_back(rows, outputs);
    const Operand &x = operands_[operands_.size() - 2], &g = operands_.back();
    gram_.push_back({x.data.data(), x.stride, inputs, g.data.data(), g.stride, outputs, 1, false});
    segments_.push_back({x.data.data(), x.stride, inputs, g.data.data(), g.stride, outputs, parameters_, {}});
    parameters_ += inputs * outputs;
  }
  BenchShape shape_;
  std::vector<int64_t> offsets_;
  std::vector<Operand> operands_;
  std::vector<GramMatrix> gram_;
  std::vector<SegmentProduct> segments_;
  std::vector<GramNormPlan> norms_;
  std::vector<SegmentGemmPlan> products_;
  int64_t parameters_ = 0;
};

// Everything of an update that lies on the device.
struct Parameters {
  DeviceArray<int32_t> sum;
  DeviceArray<float> gradient, m, v, weights;
  DeviceArray<uint16_t> compute;
  DecayRanges decay;
  explicit Parameters(int64_t count)
      : sum(count),
        gradient(count),
        m(count),
        v(count),
        weights(count),
        compute(count),
        decay(std::vector<DecayRange>{{0, count, true}}, count) {
    sum.fill_bytes(0, nullptr);
    for (auto* a : {&gradient, &m, &v, &weights}) a->fill_bytes(0, nullptr);
  }
  void step(Generator generator, double stddev) {
    const AdamwStep adamw = {1e-3, 0.9, 0.999, 1e-8, 0.1, 1};
    const StreamKey key = RootKey::from_insecure_seed(1).stream(Purpose::kNoise);
    adamw_step<int32_t>({key, 1, {stddev, generator}, 0x1p-20}, adamw, decay, 0, sum.data(),
                        {m.data(), v.data(), weights.data(), compute.data()}, nullptr);
  }
};

// Rows of the path that the plans take, and of mma.sync where that is another. A row's name and its JSON say
// which.
std::vector<Timing> on_every_path(const BenchShape& s,
                                  std::vector<Timing> (*bench)(const BenchShape&,
                                                               std::optional<TensorPath>)) {
  std::vector<Timing> all = bench(s, std::nullopt);
  if (all.front().kernels != to_string(TensorPath::kMmaSync))
    for (const Timing& one : bench(s, TensorPath::kMmaSync)) all.push_back(one);
  for (Timing& one : all) one.name += "/" + one.kernels;
  return all;
}

std::vector<Timing> bench_norms(const BenchShape& s, std::optional<TensorPath> path) {
  Layers layers(s, path);
  DeviceArray<float> gradient(layers.parameters());
  gradient.fill_bytes(0, nullptr);
  const DeviceArray<float> ones{std::span<const float>(std::vector<float>(s.batch, 1.0f))};
  const DeviceArray<uint8_t> all{
      std::span<const uint8_t>(std::vector<uint8_t>(layers.matrices() * s.batch, 1))};
  DeviceArray<double> squares(layers.matrices() * s.batch);
  const auto products = [&] { layers.products().add_floats(ones.data(), gradient.data(), nullptr); };
  const std::string name = shape_text(s, layers.parameters()),
                    baseline = "the weight gradients of the same layers";
  std::vector<Timing> timings = {
      time_in_turn(
          "norms/" + name + "/gram", s.repeats, [&] { layers.norms().run(nullptr); }, baseline, products),
      time_in_turn(
          "norms/" + name + "/direct", s.repeats,
          [&] { layers.products().squares(all.data(), squares.data(), nullptr); }, baseline, products)};
  timings[0].kernels = to_string(layers.norms().path());
  timings[1].kernels = to_string(layers.products().path());
  return timings;
}

std::vector<Timing> bench_noise(const BenchShape& s) {
  Parameters p(163000000);
  std::vector<Timing> results;
  for (const Generator generator : {Generator::kChaCha20, Generator::kPhilox})
    results.push_back(time_in_turn(
        "noise/" + std::string(to_string(generator)) + "/163m", s.repeats, [&] { p.step(generator, 0x1p20); },
        "the same update without noise", [&] { p.step(generator, 0); }));
  return results;
}

std::vector<Timing> bench_products(const BenchShape& s, std::optional<TensorPath> path) {
  Layers layers(s, path);
  Parameters p(layers.parameters());
  const int64_t pairs = layers.matrices() * s.batch;
  std::vector<int64_t> units(layers.matrices());
  for (int64_t i = 0; i < layers.matrices(); ++i) units[i] = i;
  const DeviceArray<int64_t> unit_matrix{std::span<const int64_t>(units)};
  const DeviceArray<uint8_t> selected{std::span<const uint8_t>(std::vector<uint8_t>(s.batch, 1))};
  const DeviceArray<float> ones{std::span<const float>(std::vector<float>(s.batch, 1.0f))};
  DeviceArray<uint8_t> active(pairs);
  DeviceArray<double> direct(pairs), squares(s.batch), factors(s.batch);
  DeviceArray<float> scales(s.batch);
  const auto with_privacy = [&] {
    layers.norms().run(nullptr);
    choose_direct(layers.norms().certified(), unit_matrix.data(), layers.matrices(), layers.matrices(),
                  selected.data(), s.batch, active.data(), nullptr);
    layers.products().squares(active.data(), direct.data(), nullptr);
    matrix_squares(layers.norms().results(), unit_matrix.data(), layers.matrices(), direct.data(),
                   active.data(), layers.matrices(), s.batch, squares.data(), nullptr);
    clip_scales(squares.data(), selected.data(), s.batch, 1, -20, factors.data(), scales.data(), nullptr);
    layers.products().add_integers(scales.data(), p.sum.data(), nullptr);
    p.step(Generator::kChaCha20, 0x1p20);
  };
  const auto without = [&] {
    p.gradient.fill_bytes(0, nullptr);
    layers.products().add_floats(ones.data(), p.gradient.data(), nullptr);
    p.step(Generator::kChaCha20, 0);
  };
  Timing timing = time_in_turn(
      "products/" + shape_text(s, layers.parameters()) + "/flat/weight-gradients-and-update", s.repeats,
      with_privacy, "weight gradients and update without norms, clipping and noise", without);
  timing.kernels = to_string(layers.products().path());
  return {timing};
}

void print(const std::vector<Timing>& timings, const BenchShape& s, const char* gpu) {
  std::printf("{\"machine\": {\"gpu\": \"%s\"}, \"results\": [", gpu);
  for (size_t i = 0; i < timings.size(); ++i) {
    std::printf(
        "%s{\"case\": \"%s\", \"seconds\": %.6g, \"baseline\": \"%s\", \"baseline_seconds\": %.6g, "
        "\"ratio\": %.4f, \"repeats\": %lld",
        i == 0 ? "" : ", ", timings[i].name.c_str(), timings[i].seconds, timings[i].baseline.c_str(),
        timings[i].baseline_seconds, timings[i].seconds / timings[i].baseline_seconds,
        static_cast<long long>(s.repeats));
    if (!timings[i].kernels.empty()) std::printf(", \"kernels\": \"%s\"", timings[i].kernels.c_str());
    for (const auto& [name, value] : timings[i].more) std::printf(", \"%s\": %.6g", name.c_str(), value);
    std::printf("}");
  }
  std::printf("]}\n");
}

constexpr const char* kUsage =
    "gpu_bench norms|noise|products|step [--batch N] [--sequence N] [--layers N] [--width N] [--vocab N] "
    "[--repeats N] [--slots N] [--compute bf16|fp32] [--norms auto|gram|direct|materialise] [--recompute], "
    "each number at least 1; the last four for step; or gpu_bench step --check";

// Sets the option of a word, and whether it takes one of these.
bool set_word(const std::string& value, std::initializer_list<const char*> known, std::string& option) {
  option = value;
  return std::find(known.begin(), known.end(), value) != known.end();
}

BenchShape parse(int argc, char** argv, bool is_step) {
  BenchShape s;
  const std::map<std::string, int64_t*> options = {
      {"--layers", &s.layers},     {"--width", &s.width},     {"--vocab", &s.vocab}, {"--batch", &s.batch},
      {"--sequence", &s.sequence}, {"--repeats", &s.repeats}, {"--slots", &s.slots}};
  for (int i = 2; i < argc; i += 2) {
    const std::string name = argv[i];
    const bool is_of_step =
        name == "--compute" || name == "--slots" || name == "--norms" || name == "--recompute";
    if (is_of_step && !is_step) throw ConfigError(kUsage);
    if (name == "--recompute") {
      s.recompute = true;
      --i;  // no value
      continue;
    }
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--compute" && set_word(value, {"bf16", "fp32"}, s.compute)) continue;
    if (name == "--norms" && set_word(value, {"auto", "gram", "direct", "materialise"}, s.norms)) continue;
    const auto option = options.find(name);
    char* end = nullptr;
    const long long number = std::strtoll(value.c_str(), &end, 10);
    if (option == options.end() || *end != '\0' || number < 1) throw ConfigError(kUsage);
    *option->second = number;
  }
  return s;
}

int run(int argc, char** argv) {
  const std::map<std::string, std::function<std::vector<Timing>(const BenchShape&)>> verbs = {
      {"norms", [](const BenchShape& s) { return on_every_path(s, bench_norms); }},
      {"noise", bench_noise},
      {"products", [](const BenchShape& s) { return on_every_path(s, bench_products); }},
      {"step", bench_step}};
  const auto verb = verbs.find(argc > 1 ? argv[1] : "");
  if (verb == verbs.end()) throw ConfigError(kUsage);
  const bool is_step = verb->first == "step",
             checks = is_step && argc == 3 && argv[2] == std::string("--check");
  const BenchShape s = checks ? BenchShape{} : parse(argc, argv, is_step);
  if (device_count() == 0)
    throw Unsupported(checks ? "no GPU is present: nothing was compared"
                             : "no GPU is present: nothing was measured");
  if (checks) return check_step() ? 0 : 1;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "ask for the GPU's name");
  print(verb->second(s), s, properties.name);
  return 0;
}

}  // namespace
}  // namespace dpfa::kernels::cuda

int main(int argc, char** argv) {
  try {
    return dpfa::kernels::cuda::run(argc, argv);
  } catch (const dpfa::Error& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return static_cast<int>(dpfa::ExitCode::kInternal);
  }
}
