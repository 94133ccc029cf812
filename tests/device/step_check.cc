#include "tests/device/step_check.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>

#include "src/base/check.h"
#include "src/model/gpt2.h"
#include "tests/device/step_access.h"

namespace dpfa::test {
namespace {

constexpr int64_t kTokens = 70, kVocab = 150;
constexpr int kGridExponent = -16;

struct Record {
  uint64_t seed = 0;
  int64_t length = 0;
  bool has_targets = true;
  bool repeats = false;  // one token that predicts itself: where a tied table's two gradients add up
};
using Slots = std::vector<std::optional<Record>>;

const Record kLong = {1, kTokens}, kOne = {2, 1}, kShort = {3, 33}, kSilent = {4, kTokens, false},
             kTile = {5, 64, true, true};
const Slots kAll = {kLong, kOne, std::nullopt, kShort, kSilent, kTile};

// A microbatch of slots of kTokens positions.
struct MadeBatch {
  std::vector<int64_t> ids, targets, lengths;
  std::vector<double> weights;

  explicit MadeBatch(const Slots& slots) : ids(slots.size() * kTokens), targets(ids.size(), -1) {
    for (size_t b = 0; b < slots.size(); ++b) {
      const Record record = slots[b].value_or(Record{});
      lengths.push_back(record.has_targets ? record.length : 0);
      weights.push_back(1.0 / static_cast<double>(std::max<int64_t>(1, record.length)));
      uint64_t state = record.seed;
      for (int64_t t = 0; t < record.length; ++t) {
        if (t == 0 || !record.repeats) state = state * 6364136223846793005u + 1442695040888963407u;
        const auto id = static_cast<int64_t>((state >> 33) % kVocab),
                   next = record.repeats ? id : static_cast<int64_t>((state >> 43) % kVocab);
        ids[b * kTokens + t] = id;
        if (record.has_targets) targets[b * kTokens + t] = next;
      }
    }
  }
  int64_t slots() const { return static_cast<int64_t>(lengths.size()); }
  model::Batch batch(bool ragged) const {
    return {slots(), kTokens, ids, targets, weights, {}, ragged ? lengths : std::vector<int64_t>()};
  }
};

plan::Gpt2Shape check_shape(bool tied) {
  return {.layers = 2, .width = 64, .heads = 2, .positions = kTokens + 2, .vocab = kVocab, .tied_head = tied};
}

// Every kind of tensor away from its neutral value, so that norms differ by much from record to record.
std::vector<float> made_weights(const plan::Gpt2Shape& shape) {
  std::vector<float> weights(shape.parameter_count());
  model::initialise_gpt2(shape, RootKey::from_insecure_seed(1).stream(Purpose::kInit), weights);
  for (float& w : weights) w = 3 * (w + 0.005f);
  return weights;
}

// A step with all that it needs.
struct Engine {
  Engine(const StepSide& side, const plan::Gpt2Shape& shape, at::ScalarType pair_compute,
         double max_grad_norm)
      : compute(side.compute.value_or(pair_compute)),
        parameters(made_weights(shape), compute, side.device),
        model(shape, compute, side.device, side.recompute),
        kernels(side.make_kernels(compute, model::decay_ranges(model::gpt2_parameters(shape)),
                                  shape.parameter_count())),
        step(numbers(side, max_grad_norm), model, *kernels.back(), parameters) {
    model.bind(parameters.compute);
  }
  static device::StepNumbers numbers(const StepSide& side, double max_grad_norm) {
    device::StepNumbers result = {max_grad_norm, kGridExponent, {1e4}, 4, {.norms = side.norms}};
    if (side.alter) side.alter(result);
    return result;
  }
  // What a microbatch adds to the sum.
  std::vector<int64_t> sum_of(const Slots& slots, bool ragged) {
    ClippedStepAccess::clear_sum(step);
    const MadeBatch made(slots);
    step.accumulate(made.batch(ragged));
    return ClippedStepAccess::sum(step);
  }
  double norm(int64_t b) const { return ClippedStepAccess::norm(step, b); }
  double factor(int64_t b) const { return ClippedStepAccess::factor(step, b); }

  at::ScalarType compute;
  device::Parameters parameters;
  device::Gpt2 model;
  StepSide::Kernels kernels;
  device::ClippedStep step;
};

double l2(const std::vector<int64_t>& values) {
  double sum = 0;
  for (const int64_t v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

// A NaN is larger than every number.
double larger(double a, double b) { return a > b || std::isnan(a) ? a : b; }

class Comparison {
 public:
  Comparison(const StepPair& pair, StepReport& report)
      : shape_(check_shape(pair.tied)),
        tolerance_(pair.tolerance),
        report_(report),
        clip_(clip_between_norms(pair)),
        tested_(pair.tested, shape_, pair.compute, clip_),
        trusted_(pair.trusted, shape_, pair.compute, clip_) {
    std::ostringstream text;
    text << c10::toString(pair.compute) << (pair.tied ? ", tied head: " : ", head of its own: ")
         << pair.tested.name << " beside " << pair.trusted.name;
    name_ = text.str();
  }

  void sums(bool ragged) {
    const std::string where = ragged ? "rows up to the last target" : "all rows";
    const StepDistance distance = measure(ragged);
    within(where, "norms", distance.norm, tolerance_.norm);
    within(where, "factors", distance.factor, tolerance_.factor);
    within(where, "sum of integers", distance.sum, tolerance_.sum);
  }

  // Leaves the sums of both where they are.
  StepDistance measure(bool ragged) {
    const std::vector<int64_t> got = tested_.sum_of(kAll, ragged), wanted = trusted_.sum_of(kAll, ragged);
    StepDistance distance = {};
    double contributions = 0;
    for (int64_t b = 0; b < static_cast<int64_t>(kAll.size()); ++b) {
      if (!kAll[b] || !kAll[b]->has_targets) {
        for (const Engine* engine : {&tested_, &trusted_})
          expect(engine->factor(b) == 0, "slot ", b, " has no target and factor ", engine->factor(b));
        continue;
      }
      distance.norm = larger(distance.norm, std::abs(tested_.norm(b) / trusted_.norm(b) - 1));
      distance.factor = larger(distance.factor, std::abs(tested_.factor(b) - trusted_.factor(b)));
      contributions += trusted_.norm(b) * trusted_.factor(b);
    }
    std::vector<int64_t> difference = got;
    for (size_t i = 0; i < got.size(); ++i) difference[i] -= wanted[i];
    // Each element of each example may round to the next integer on one side alone.
    const double rounding = std::sqrt(static_cast<double>(got.size()) * static_cast<double>(kAll.size()));
    distance.sum = std::max(0.0, l2(difference) - rounding) * std::ldexp(1.0, kGridExponent) / contributions;
    expect(l2(got) > 0, "nothing was added");
    return distance;
  }

  // After sums(): what lies in the sum of the step under test is released by both.
  void release() {
    ClippedStepAccess::copy_sum(tested_.step, trusted_.step);
    const StreamKey key = RootKey::from_insecure_seed(2).stream(Purpose::kNoise);
    for (Engine* engine : {&tested_, &trusted_})
      engine->step.release(key, 1, {1e-3, 0.9, 0.95, 1e-8, 0.1, 1});
    const auto same = [&](const char* what, const at::Tensor& a, const at::Tensor& b) {
      expect(a.cpu().equal(b.cpu()), "release of one sum: ", what, " differ in their bits");
    };
    same("first moments", tested_.parameters.m, trusted_.parameters.m);
    same("second moments", tested_.parameters.v, trusted_.parameters.v);
    same("weights", tested_.parameters.weights, trusted_.parameters.weights);
    same("weights in the compute type", tested_.parameters.compute, trusted_.parameters.compute);
    note("release of one sum: bits of moments and weights");
  }

  // Before release(): weights as they were made.
  void slots() {
    for (const Record& record : {kLong, kOne, kShort}) {
      Slots alone(kAll.size()), others(kAll.size(), Record{9, 50});
      alone[0] = record;
      others[2].reset();
      Slots among = others;
      among[2] = record;
      const std::vector<int64_t> wanted = tested_.sum_of(alone, false);
      const double norm = tested_.norm(0), factor = tested_.factor(0);
      const std::vector<int64_t> without = tested_.sum_of(others, false);
      std::vector<int64_t> got = tested_.sum_of(among, false);
      for (size_t i = 0; i < got.size(); ++i) got[i] -= without[i];
      expect(tested_.norm(2) == norm && tested_.factor(2) == factor, "a record of ", record.length,
             " tokens has another norm among others in another slot");
      expect(got == wanted, "a record of ", record.length,
             " tokens adds other integers among others in another slot");
      expect(l2(wanted) > 0, "a record of ", record.length, " tokens adds nothing");
    }
    note("records of 70, 1 and 33 tokens alone and among others in another slot: bits of norms and integers");
  }

 private:
  // So that some examples are clipped and some are not.
  double clip_between_norms(const StepPair& pair) const {
    Engine engine(pair.trusted, shape_, pair.compute, std::ldexp(1.0, 23 + kGridExponent));
    engine.sum_of(kAll, false);
    double least = std::numeric_limits<double>::infinity(), most = 0;
    for (int64_t b = 0; b < static_cast<int64_t>(kAll.size()); ++b) {
      if (!kAll[b] || !kAll[b]->has_targets) continue;
      least = std::min(least, engine.norm(b));
      most = std::max(most, engine.norm(b));
    }
    DPFA_CHECK(least > 0 && least < most, "norms between ", least, " and ", most);
    return std::sqrt(least * most);
  }
  template <typename... Parts>
  void expect(bool holds, const Parts&... parts) {
    if (holds) return;
    std::ostringstream text;
    text << name_ << ": ";
    (text << ... << parts);
    report_.differences.push_back(text.str());
  }
  void note(const std::string& what) { report_.compared.push_back(name_ + ": " + what); }
  void within(const std::string& where, const char* what, double error, double tolerance) {
    std::ostringstream text;
    text << where << ": " << what << " within " << tolerance << ": " << error;
    note(text.str());
    expect(error <= tolerance, text.str());
  }

  plan::Gpt2Shape shape_;
  StepDistance tolerance_;
  StepReport& report_;
  double clip_;
  Engine tested_, trusted_;
  std::string name_;
};

}  // namespace

StepDistance distance_between(const StepPair& pair) {
  StepReport unread;
  Comparison comparison(pair, unread);
  const StepDistance a = comparison.measure(/*ragged=*/true), b = comparison.measure(/*ragged=*/false);
  return {larger(a.norm, b.norm), larger(a.factor, b.factor), larger(a.sum, b.sum)};
}

void compare_steps(const StepPair& pair, StepReport& report) {
  Comparison comparison(pair, report);
  comparison.slots();
  comparison.sums(/*ragged=*/true);
  comparison.sums(/*ragged=*/false);
  comparison.release();
}

}  // namespace dpfa::test
