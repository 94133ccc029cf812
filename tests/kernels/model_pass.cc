#include "tests/kernels/model_pass.h"

#include <numeric>

#include "kernels/cross_entropy.h"

namespace dpfa::kernels::test {
namespace {

// First all vectors, then all the rest: a tied table and its embedding belong together.
std::vector<GradientRecords> two_parts(const GradientRecords& records) {
  GradientRecords vectors, rest = records;
  vectors.offsets = records.offsets;
  vectors.vectors = std::move(rest.vectors);
  rest.vectors.clear();
  return {vectors, rest};
}

std::unique_ptr<NormRoute> make_route(const std::string& name) {
  const std::string method = name.substr(0, name.find('_'));
  const bool constant_work = name.ends_with("_constant_work");
  if (method == "exact") return make_exact_route(constant_work);
  return make_gram_route({.method = method, .constant_work = constant_work});
}

std::vector<ExampleOutcome> add_streamed(const GradientRecords& records, std::span<const uint8_t> selected,
                                         double max_grad_norm, ContributionSink& sink) {
  const std::vector<GradientRecords> parts = two_parts(records);
  StreamedRoute route(records.examples());
  for (const GradientRecords& part : parts) route.measure(part, selected);
  const std::vector<ExampleOutcome> outcomes = route.settle(selected, max_grad_norm);
  for (const GradientRecords& part : parts) route.add(part, outcomes, sink);
  route.check_added(outcomes);
  return outcomes;
}

}  // namespace

double slack_of(const std::string& route) {
  return route.starts_with("exact") || route == "streamed" ? 0 : kGramSlack;
}

ModelPass::ModelPass(const TinyModel& model, std::span<const int64_t> which, at::ScalarType type,
                     AttentionPath path)
    : model_(model),
      batch_(model.batch.of(which)),
      tape_(std::make_unique<RecordingTape>(model.parameters, batch_.offsets, type, path)),
      losses_(which.size()) {
  const at::Tensor logits = model.logits(*tape_, batch_);
  at::Tensor gradient = logits.detach().clone();
  std::vector<double> rows(batch_.targets.size());
  cross_entropy_in_place(gradient, batch_.targets, batch_.weights, rows);
  for (int64_t b = 0; b < batch_.examples(); ++b)
    losses_[b] = std::accumulate(rows.begin() + batch_.offsets[b], rows.begin() + batch_.offsets[b + 1], 0.0);
  records_ = &tape_->backward(logits, gradient);
}

ClippedSum ModelPass::clipped_sum(const std::string& route, double max_grad_norm) const {
  const std::vector<uint8_t> selected(batch_.examples(), 1);
  ClippedSum sum{at::zeros({model_.parameters.count()}, at::kDouble),
                 std::vector<ExampleOutcome>(batch_.examples())};
  DoubleSink sink({sum.values.data_ptr<double>(), static_cast<size_t>(sum.values.numel())});
  if (route == "streamed") {
    sum.outcomes = add_streamed(*records_, selected, max_grad_norm, sink);
  } else {
    make_route(route)->accumulate(*records_, selected, max_grad_norm, sink, sum.outcomes);
  }
  return sum;
}

std::vector<Alone> one_at_a_time(const TinyModel& model, at::ScalarType type) {
  std::vector<Alone> result;
  for (int64_t b : all_examples(model)) {
    if (model.batch.length(b) == 0) {
      result.push_back({0, 0, at::zeros({model.parameters.count()}, at::kDouble)});
      continue;
    }
    const std::vector<int64_t> which = {b};
    const Batch batch = model.batch.of(which);
    PlainTape tape(model.parameters, batch.offsets, type);
    const at::Tensor losses =
        at::cross_entropy_loss(model.logits(tape, batch), at::tensor(batch.targets, at::kLong), {},
                               at::Reduction::None, /*ignore_index=*/-100);
    const at::Tensor loss = (losses * at::tensor(batch.weights, at::kDouble).to(type)).sum();
    const at::Tensor gradient = tape.gradient(loss);
    result.push_back({loss.item().toDouble(), gradient.norm().item<double>(), gradient});
  }
  return result;
}

std::vector<int64_t> all_examples(const TinyModel& model) {
  std::vector<int64_t> which(model.batch.examples());
  std::iota(which.begin(), which.end(), 0);
  return which;
}

}  // namespace dpfa::kernels::test
