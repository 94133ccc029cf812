#include "src/privacy/clipper.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::privacy {
namespace {

// The planted mistake of clipping the mean of a batch instead of each example.
void add_clipped_mean(model::Gpt2& model, int64_t examples, double max_grad_norm,
                      kernels::ContributionSink& sink) {
  std::vector<float> gradient(model.shape().parameter_count());
  model::add_batch_gradient(model, /*overwrite=*/true, gradient);
  double squares = 0;
  for (float g : gradient) squares += static_cast<double>(g) * g;
  const double mean_norm = std::sqrt(squares) / static_cast<double>(std::max<int64_t>(examples, 1));
  sink.add(0, std::span<const float>(gradient), kernels::clip_factor(mean_norm, max_grad_norm));
}

// Compares contributions without keeping them: the sum, modulo 2^64, of a mix of each element's index, value
// bits and factor bits, and of the bits of each norm. Equal contributions have equal sums in any order; a
// single changed bit changes it.
class FingerprintSink final : public kernels::ContributionSink {
 public:
  void add(int64_t offset, std::span<const float> values, double factor) override {
    take(offset, values, factor);
  }
  void add(int64_t offset, std::span<const c10::BFloat16> values, double factor) override {
    take(offset, values, factor);
  }
  void add(int64_t offset, std::span<const double> values, double factor) override {
    take(offset, values, factor);
  }
  // The norm of a record that is not clipped is in nothing that it adds.
  void take(const kernels::ExampleOutcome& outcome) {
    if (outcome.factor > 0) sum_ += mix(std::bit_cast<uint64_t>(outcome.norm));
  }
  uint64_t fingerprint() const { return sum_.load(); }

 private:
  static uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  template <typename T>
  void take(int64_t offset, std::span<const T> values, double factor) {
    if (factor == 0) return;  // zeros, whatever the values are
    const uint64_t factor_bits = mix(std::bit_cast<uint64_t>(factor));
    uint64_t sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<double>(values[i]);  // exact for every compute type
      sum += mix(mix(factor_bits + offset + i) + std::bit_cast<uint64_t>(value));
    }
    sum_ += sum;
  }
  std::atomic<uint64_t> sum_ = 0;
};

// For passes of which only the side effects are wanted.
class DiscardSink final : public kernels::ContributionSink {
 public:
  void add(int64_t, std::span<const float>, double) override {}
  void add(int64_t, std::span<const c10::BFloat16>, double) override {}
  void add(int64_t, std::span<const double>, double) override {}
};

// Takes the targets from position `count` on out of a record.
void keep_targets(data::Microbatch& microbatch, int64_t slot, int64_t count) {
  const auto row = microbatch.targets.begin() + slot * microbatch.tokens;
  std::fill(row + count, row + microbatch.tokens, data::kIgnored);
  microbatch.target_counts[slot] = count;
}

void take_out(data::Microbatch& microbatch, int64_t slot) {
  keep_targets(microbatch, slot, 0);
  microbatch.records[slot] = -1;
}

// Only the records of the slots whose number has the bit, or has it not.
data::Microbatch part_of(data::Microbatch microbatch, int64_t bit, bool has_it) {
  for (int64_t b = 0; b < microbatch.slots; ++b)
    if (((b & bit) != 0) != has_it) take_out(microbatch, b);
  return microbatch;
}

// The same records in the same order, that of slot `first` in front.
data::Microbatch rotated(data::Microbatch microbatch, int64_t first) {
  const auto rotate = [&](std::vector<int64_t>& values, int64_t per_slot) {
    std::rotate(values.begin(), values.begin() + first * per_slot, values.end());
  };
  rotate(microbatch.input_ids, microbatch.tokens);
  rotate(microbatch.targets, microbatch.tokens);
  rotate(microbatch.records, 1);
  rotate(microbatch.target_counts, 1);
  return microbatch;
}

// The record of one slot in the first of `room` slots, the others empty.
data::Microbatch alone(const data::Microbatch& microbatch, int64_t slot, int64_t room) {
  data::Microbatch one = rotated(microbatch, slot);
  one.slots = room;
  one.input_ids.resize(room * one.tokens);
  one.targets.resize(room * one.tokens);
  one.records.resize(room);
  one.target_counts.resize(room);
  for (int64_t b = 1; b < room; ++b) take_out(one, b);
  return one;
}

// Full slots of the layouts that a self-test tries; the first has whole records alone.
std::vector<data::Microbatch> made_up_layouts(int64_t slots, int64_t context, int64_t vocab) {
  // Odd steps down from the context, so that lengths of both parities come.
  const int64_t step = std::max<int64_t>(1, (context / slots - 1) | 1);
  const auto descending = [&](int64_t k) { return std::max<int64_t>(1, context - k * step); };
  std::vector<data::Microbatch> layouts(5, data::made_up_microbatch(slots, context, vocab));
  keep_targets(layouts[1], 0, context / 2);
  for (int64_t b = 0; b < slots; ++b) {
    keep_targets(layouts[2], b, descending(b));
    keep_targets(layouts[3], b, descending(b - (b + 1) / 3));  // one, a pair, one, a pair, ...
    // Pairs of the lengths at which buffers of LibTorch's attention are aligned in many ways: 31, 29, ... 5.
    keep_targets(layouts[4], b, std::min(context, 31 - 2 * (b / 2 % 14)));
  }
  return layouts;
}

}  // namespace

std::vector<double> loss_weights(const data::Microbatch& microbatch, const std::string& loss) {
  std::vector<double> weights(microbatch.slots, 0.0);
  for (int64_t b = 0; b < microbatch.slots; ++b) {
    const int64_t targets = microbatch.target_counts[b];
    if (targets > 0) weights[b] = loss == "token_sum" ? 1.0 : 1.0 / static_cast<double>(targets);
  }
  if (DPFA_PLANT("batch_mean_loss")) {
    const auto all = std::accumulate(microbatch.target_counts.begin(), microbatch.target_counts.end(), 0.0);
    for (double& weight : weights) weight = weight > 0 ? 1 / all : 0;
  }
  return weights;
}

model::Batch to_batch(const data::Microbatch& microbatch, std::span<const double> weights,
                      bool skips_padding) {
  model::Batch batch{microbatch.slots,   microbatch.tokens, microbatch.input_ids,
                     microbatch.targets, weights,           microbatch.records};
  for (int64_t b = 0; skips_padding && b < microbatch.slots; ++b) {
    int64_t length = microbatch.records[b] >= 0 ? microbatch.tokens : 0;
    while (length > 0 && microbatch.targets[b * microbatch.tokens + length - 1] < 0) --length;
    batch.lengths.push_back(length);
  }
  return batch;
}

Clipper::Clipper(const plan::PrivacyPlan& plan, model::Gpt2& model, kernels::NormMethodChoice methods,
                 bool constant_work)
    : plan_(plan),
      model_(model),
      constant_work_(constant_work),
      measures_methods_(plan.numerics() == "fp32" && methods.method == "auto") {
  DPFA_CHECK(plan.numerics() == "exact" || !model.execution().recompute_layers,
             "layers that are recomputed have no route of numerics = ", plan.numerics());
  methods.constant_work = constant_work && !DPFA_PLANT("excluded_records_cost_nothing");
  route_ = plan.numerics() == "exact" ? kernels::make_exact_route(methods.constant_work)
                                      : kernels::make_gram_route(std::move(methods));
}

Clipper::~Clipper() = default;

bool Clipper::skips_padding() const {
  if (DPFA_PLANT("rows_follow_the_record")) return true;
  return !constant_work_ && model_.compute() != at::kBFloat16;
}

void Clipper::choose_methods(int64_t slots, int64_t context) {
  if (!measures_methods_) return;
  DiscardSink unread;
  accumulate_into(data::made_up_microbatch(slots, context, model_.shape().vocab), nullptr, unread);
}

ClippedSum Clipper::zero(std::optional<NoisyGradient> spent, int64_t room) const {
  const int64_t parameters = model_.shape().parameter_count();
  if (!spent) return ClippedSum(FlatBuffer<int32_t>(parameters), room);
  DPFA_CHECK(spent->size() == parameters && spent->taken_ == parameters);  // so every element is zero
  return ClippedSum(std::move(spent->sum_), room);
}

void Clipper::accumulate(const data::Microbatch& microbatch, const model::Dropout* dropout, ClippedSum& sum) {
  DPFA_CHECK(plan_.is_private());
  int64_t contributions = microbatch.slots;
  if (DPFA_PLANT("flush_follows_the_draw"))
    contributions -= std::count(microbatch.records.begin(), microbatch.records.end(), -1);
  kernels::IntegerSink sink(sum.reserve(contributions), plan_.grid_exponent());
  accumulate_into(microbatch, dropout, sink);
}

std::vector<kernels::ExampleOutcome> Clipper::accumulate_into(const data::Microbatch& microbatch,
                                                              const model::Dropout* dropout,
                                                              kernels::ContributionSink& sink,
                                                              std::vector<double>* losses_out) {
  std::vector<kernels::ExampleOutcome> outcomes(microbatch.slots);
  std::vector<double> losses(microbatch.slots, 0.0);
  const std::vector<double> weights = loss_weights(microbatch, plan_.loss());
  model::Batch batch = to_batch(microbatch, weights, skips_padding());
  batch.every_row = constant_work_;
  model_.forward(batch, dropout, /*for_backward=*/true, losses);
  if (model_.offsets().back() > 0) {
    std::vector<uint8_t> selected(microbatch.slots);
    for (int64_t b = 0; b < microbatch.slots; ++b)
      selected[b] = microbatch.records[b] >= 0 && microbatch.target_counts[b] > 0 &&
                    (std::isfinite(losses[b]) || DPFA_PLANT("zero_times_nan"));
    if (DPFA_PLANT("clip_after_mean"))
      add_clipped_mean(model_, std::count(selected.begin(), selected.end(), 1), plan_.max_grad_norm(), sink);
    else if (model_.execution().recompute_layers)
      outcomes = accumulate_streamed(selected, sink);
    else
      route_->accumulate(model::collect_records(model_), selected, plan_.max_grad_norm(), sink, outcomes);
  }
  if (losses_out != nullptr) *losses_out = std::move(losses);
  return outcomes;
}

std::vector<kernels::ExampleOutcome> Clipper::accumulate_streamed(std::span<const uint8_t> selected,
                                                                  kernels::ContributionSink& sink) {
  kernels::StreamedRoute route(static_cast<int64_t>(selected.size()), constant_work_);
  model::visit_records(model_, [&](const kernels::GradientRecords& part) { route.measure(part, selected); });
  const auto outcomes = route.settle(selected, plan_.max_grad_norm());
  model::visit_records(model_,
                       [&](const kernels::GradientRecords& part) { route.add(part, outcomes, sink); });
  route.check_added(outcomes);
  return outcomes;
}

bool Clipper::self_test(int64_t slots, int64_t context, double dropout_rate,
                        const std::function<void()>& before_pass) {
  if (slots <= 1) return true;
  // Masks are no secret here: what they drop is made up.
  const model::Dropout dropout{dropout_rate, StreamKey({1, 2, 3, 4, 5, 6, 7, 8}), /*step=*/0};
  const auto fingerprint = [&](const data::Microbatch& microbatch) {
    if (before_pass) before_pass();
    FingerprintSink sink;
    for (const auto& outcome : accumulate_into(microbatch, dropout_rate > 0 ? &dropout : nullptr, sink))
      sink.take(outcome);
    return sink.fingerprint();
  };
  const bool exact = plan_.numerics() == "exact";
  std::map<std::pair<int64_t, int64_t>, uint64_t> known;  // by record and targets
  const auto fingerprint_alone = [&](const data::Microbatch& microbatch, int64_t slot) {
    const auto [entry, is_new] =
        known.try_emplace({microbatch.records[slot], microbatch.target_counts[slot]});
    if (is_new) entry->second = fingerprint(alone(microbatch, slot, exact ? 1 : slots));
    return entry->second;
  };
  const std::vector<data::Microbatch> layouts = made_up_layouts(slots, context, model_.shape().vocab);
  for (const data::Microbatch& together : layouts) {
    const uint64_t all = fingerprint(together);
    if (exact) {
      // A microbatch must give what its examples give one at a time.
      uint64_t sum = 0;
      for (int64_t b = 0; b < slots; ++b) sum += fingerprint_alone(together, b);
      if (sum != all) return false;
      continue;
    }
    // It must give what its halves give, any two whole records being apart in one of these divisions, and the
    // same where every record has another slot.
    const int64_t divisions_end = &together == &layouts.front() ? slots : 2;
    for (int64_t bit = 1; bit < divisions_end; bit *= 2)
      if (fingerprint(part_of(together, bit, true)) + fingerprint(part_of(together, bit, false)) != all)
        return false;
    if (fingerprint(rotated(together, slots - 1)) != all) return false;
  }
  data::Microbatch last = layouts.front();
  for (int64_t b = 0; b + 1 < slots; ++b) take_out(last, b);
  return fingerprint(last) == fingerprint_alone(layouts.front(), slots - 1);
}

}  // namespace dpfa::privacy
