// `gpu_bench step`: whole training steps on one GPU, private and not, on made tokens.
#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdio>
#include <map>
#include <memory>

#include "kernels/cuda/example_kernels.h"
#include "kernels/cuda/gpu_bench.h"
#include "src/device/batch_step.h"
#include "src/device/clipped_step.h"
#include "src/device/library_kernels.h"

namespace dpfa::kernels::cuda {
namespace {

using device::Phase;

const at::Device kGpu(at::kCUDA, 0);

// A learning rate that keeps the weights, and so the work of a step, as they are.
AdamwStep adamw(int64_t step) { return {1e-6, 0.9, 0.999, 1e-8, 0.1, step}; }

plan::Gpt2Shape shape_of(const BenchShape& s) {
  return {.layers = s.layers,
          .width = s.width,
          .heads = s.width / 64,
          .positions = std::max<int64_t>(1024, s.sequence),
          .vocab = s.vocab,
          .tied_head = false};
}

// The batch of one step, other tokens at each step: groups of equal tokens are formed anew, as in training.
class Tokens {
 public:
  explicit Tokens(const BenchShape& s) : s_(s), weights_(s.batch, 1.0 / static_cast<double>(s.sequence)) {}
  void draw() {
    ids_.clear();
    for (int64_t i = 0; i <= s_.batch * s_.sequence; ++i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      ids_.push_back(static_cast<int64_t>((state_ >> 33) % static_cast<uint64_t>(s_.vocab)));
    }
  }
  template <typename F>
  void for_each_microbatch(F f) const {
    const int64_t slots = s_.slots > 0 ? s_.slots : s_.batch;
    const auto part = [&](const auto& all, int64_t first, int64_t size) {
      return std::span(all).subspan(static_cast<size_t>(first), static_cast<size_t>(size));
    };
    for (int64_t first = 0; first < s_.batch; first += slots) {
      const int64_t count = std::min(slots, s_.batch - first), rows = count * s_.sequence;
      f(model::Batch{count,
                     s_.sequence,
                     part(ids_, first * s_.sequence, rows),
                     part(ids_, first * s_.sequence + 1, rows),
                     part(weights_, first, count),
                     {}});
    }
  }

 private:
  const BenchShape& s_;
  std::vector<double> weights_;
  std::vector<int64_t> ids_;
  uint64_t state_ = 1;
};

// A model with its parameters on the GPU.
struct Trained {
  explicit Trained(const BenchShape& s)
      : shape(shape_of(s)),
        type(s.compute == "bf16" ? at::kBFloat16 : at::kFloat),
        parameters(initial(shape), type, kGpu),
        model(shape, type, kGpu, s.recompute) {
    model.bind(parameters.compute);
  }
  static std::vector<float> initial(const plan::Gpt2Shape& shape) {
    std::vector<float> values(shape.parameter_count());
    model::initialise_gpt2(shape, RootKey::from_insecure_seed(1).stream(Purpose::kInit), values);
    return values;
  }
  plan::Gpt2Shape shape;
  at::ScalarType type;
  device::Parameters parameters;
  device::Gpt2 model;
};

// Device memory in use, by all processes of the GPU.
double used_mib() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "ask for the GPU's free memory");
  return static_cast<double>(total - free) / (1 << 20);
}

constexpr const char* kPhaseNames[] = {"forward_backward_seconds", "norms_seconds", "products_seconds",
                                       "release_seconds"};

class PrivateStep {
 public:
  explicit PrivateStep(const BenchShape& s)
      : trained_(s),
        own_(make_example_kernels(model::decay_ranges(model::gpt2_parameters(trained_.shape)),
                                  trained_.shape.parameter_count(), nullptr)),
        library_(device::make_library_kernels(trained_.type, kGpu, *own_)),
        kernels_(s.compute == "bf16" ? *own_ : *library_),
        // Noise 1, sensitivity 1, a divisor of the batch size: numbers that a plan would have.
        step_({1, -22, {.stddev_in_grid_units = 0x1p22}, static_cast<double>(s.batch), methods(s)},
              trained_.model, kernels_, trained_.parameters) {}

  std::string kernels() const { return kernels_.name(); }
  void run(const Tokens& tokens) {
    tokens.for_each_microbatch([&](const model::Batch& batch) { step_.accumulate(batch); });
    ++count_;
    step_.release(key_, static_cast<uint64_t>(count_), adamw(count_));
  }
  // Seconds of each phase of a step of its own: the events of phases add to its time.
  std::vector<double> phases(const Tokens& tokens) {
    std::vector<std::pair<int, std::unique_ptr<Event>>> events;
    const auto mark = [&](int phase) {
      events.emplace_back(phase, std::make_unique<Event>());
      events.back().second->record();
    };
    step_.watch([&](Phase phase) { mark(static_cast<int>(phase)); });
    mark(-1);
    run(tokens);
    step_.watch({});
    std::vector<double> seconds(std::size(kPhaseNames));
    for (size_t i = 1; i < events.size(); ++i)
      seconds[events[i].first] += events[i].second->seconds_since(*events[i - 1].second);
    return seconds;
  }

 private:
  static device::MethodSettings methods(const BenchShape& s) {
    const std::map<std::string, device::NormChoice> choices = {
        {"auto", device::NormChoice::kMeasured},
        {"gram", device::NormChoice::kGram},
        {"direct", device::NormChoice::kDirect},
        {"materialise", device::NormChoice::kMaterialise}};
    return {.norms = choices.at(s.norms), .file = default_method_file(), .log = [](const std::string& line) {
              std::fprintf(stderr, "gpu_bench: %s\n", line.c_str());
            }};
  }

  Trained trained_;
  std::unique_ptr<ExampleKernels> own_, library_;
  ExampleKernels& kernels_;
  device::ClippedStep step_;
  StreamKey key_ = RootKey::from_insecure_seed(1).stream(Purpose::kNoise);
  int64_t count_ = 0;
};

class PlainStep {
 public:
  explicit PlainStep(const BenchShape& s)
      : divisor_(static_cast<double>(s.batch)), trained_(s), step_(trained_.model, trained_.parameters) {}
  void run(const Tokens& tokens) {
    tokens.for_each_microbatch([&](const model::Batch& batch) { step_.accumulate(batch); });
    step_.update(adamw(++count_), divisor_);
  }

 private:
  double divisor_;
  Trained trained_;
  device::BatchStep step_;
  int64_t count_ = 0;
};

// What a step alone takes of the device. LibTorch keeps what it once took, so what is in use after a step
// that found nothing kept is its peak, its own rounding included. The step before it measures norm methods.
template <typename Step>
double peak_mib(const BenchShape& s, Tokens& tokens) {
  const double before = used_mib();
  double after = 0;
  {
    Step step(s);
    for (int k = 0; k < 2; ++k) {
      tokens.draw();
      if (k > 0) c10::cuda::CUDACachingAllocator::emptyCache();
      step.run(tokens);
    }
    after = used_mib();
  }
  c10::cuda::CUDACachingAllocator::emptyCache();
  return after - before;
}

}  // namespace

std::vector<Timing> bench_step(const BenchShape& s) {
  if (s.width % 64 != 0) throw ConfigError("--width must be a multiple of 64: heads have 64 channels");
  if (s.compute == "fp32" && s.norms == "gram")
    throw ConfigError("--norms gram needs --compute bf16: the kernels for Gram norms take bf16 operands");
  if ((s.slots > 0 ? s.slots : s.batch) > 255)
    throw ConfigError("more than 255 examples in one microbatch: give --slots of at most 255");
  if (s.recompute) device::use_repeatable_operations();
  Tokens tokens(s);
  at::zeros({1}, kGpu);  // the context of the device counts to no step
  const double peak = peak_mib<PrivateStep>(s, tokens), plain_peak = peak_mib<PlainStep>(s, tokens);
  PrivateStep with_privacy(s);
  PlainStep plain(s);
  std::vector<double> seconds, baseline_seconds;
  std::vector<std::vector<double>> phases(std::size(kPhaseNames));
  Event start, middle, end;
  for (int64_t k = -3; k < s.repeats; ++k) {
    tokens.draw();
    start.record();
    with_privacy.run(tokens);
    middle.record();
    plain.run(tokens);
    end.record();
    const double first = middle.seconds_since(start), second = end.seconds_since(middle);
    const std::vector<double> parts = with_privacy.phases(tokens);
    if (k < 0) continue;
    seconds.push_back(first);
    baseline_seconds.push_back(second);
    for (size_t i = 0; i < parts.size(); ++i) phases[i].push_back(parts[i]);
  }
  Timing result = {"step/" + shape_text(s, shape_of(s).parameter_count()) + "/flat" +
                       (s.norms == "auto" ? "" : "/" + s.norms) + (s.recompute ? "/recompute" : ""),
                   median(seconds), median(baseline_seconds), "the same engine without clipping and noise"};
  result.kernels = with_privacy.kernels();
  for (size_t i = 0; i < phases.size(); ++i) result.more.emplace_back(kPhaseNames[i], median(phases[i]));
  result.more.emplace_back("peak_device_mib", peak);
  result.more.emplace_back("baseline_peak_device_mib", plain_peak);
  return {result};
}

}  // namespace dpfa::kernels::cuda
