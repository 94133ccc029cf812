#include "src/train/gradient_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/contribution_sink.h"
#include "src/base/error.h"
#include "src/model/safetensors.h"
#include "src/plan/plan.h"
#include "src/privacy/clipper.h"
#include "src/train/frozen_model.h"

namespace dpfa::train {
namespace {

// The integer tensors of a batch file, all of the shape of input_ids.
class BatchFile {
 public:
  explicit BatchFile(const std::filesystem::path& path)
      : path_(path), file_(model::SafetensorsFile::open(path)), shape_(file_.at("input_ids").shape) {
    if (shape_.size() != 2) throw IoError("'" + path_.string() + "': input_ids must have the shape (B, T)");
  }
  int64_t examples() const { return shape_[0]; }
  int64_t tokens() const { return shape_[1]; }
  bool contains(const std::string& name) const { return file_.contains(name); }
  std::vector<int64_t> read(const std::string& name) const {
    if (file_.at(name).shape != shape_) {
      if (name == "labels" && file_.at(name).shape.size() == 1)
        throw Unsupported("'" + path_.string() +
                          "': one label per example needs a classification model; a GPT-2 "
                          "language model takes labels (B, T)");
      throw IoError("'" + path_.string() + "': " + name + " does not have the shape of input_ids");
    }
    return file_.read_integers(name);
  }
  std::string text() const { return "'" + path_.string() + "'"; }

 private:
  std::filesystem::path path_;
  model::SafetensorsFile file_;
  std::vector<int64_t> shape_;
};

// Attention here is causal and nothing else: right padding is never attended to, any other mask would need
// one.
void check_right_padded(const BatchFile& file, const std::vector<int64_t>& mask) {
  for (int64_t i = 0; i < static_cast<int64_t>(mask.size()); ++i) {
    const bool rises = i % file.tokens() > 0 && mask[i] > mask[i - 1];
    if ((mask[i] != 0 && mask[i] != 1) || rises)
      throw Unsupported(file.text() +
                        ": attention_mask must be 1 on the tokens of each example and 0 on the padding "
                        "to their right");
  }
}

void fill_targets(const BatchFile& file, int64_t vocab, const std::vector<int64_t>& mask,
                  data::Microbatch& batch) {
  std::vector<int64_t> labels;
  if (file.contains("labels")) {
    labels = file.read("labels");
  } else {
    labels = batch.input_ids;
    for (size_t i = 0; i < labels.size(); ++i)
      if (mask[i] == 0) labels[i] = data::kIgnored;
  }
  batch.targets.assign(labels.size(), data::kIgnored);
  batch.target_counts.assign(batch.slots, 0);
  for (int64_t i = 0; i < static_cast<int64_t>(labels.size()); ++i) {
    if (labels[i] == data::kIgnored || i % batch.tokens == 0) continue;  // nothing predicts the first token
    if (labels[i] < 0 || labels[i] >= vocab)
      throw StateError(file.text() + ": labels must be -100 or ids below the model's vocab_size = " +
                       std::to_string(vocab));
    if (mask[i - 1] == 0)
      throw Unsupported(file.text() + ": a label follows a masked position; use -100 for labels of padding");
    batch.targets[i - 1] = labels[i];
    ++batch.target_counts[i / batch.tokens];
  }
}

// Examples [begin, begin + count) as a batch of their own.
data::Microbatch slice(const data::Microbatch& batch, int64_t begin, int64_t count) {
  const auto part = [](const std::vector<int64_t>& values, int64_t first, int64_t size) {
    return std::vector<int64_t>(values.begin() + first, values.begin() + first + size);
  };
  const int64_t t = batch.tokens;
  return {count,
          t,
          part(batch.input_ids, begin * t, count * t),
          part(batch.targets, begin * t, count * t),
          part(batch.records, begin, count),
          part(batch.target_counts, begin, count)};
}

plan::PrivacyPlan plan_of(const GradientOptions& options, int64_t examples, int64_t parameters) {
  plan::PrivacyConfig config;
  config.noise_multiplier = 1;
  config.target_delta = 1e-5;
  config.sample_rate = 1;
  config.expected_batch_size = static_cast<double>(std::max<int64_t>(examples, 1));
  config.steps = 1;
  config.max_grad_norm = options.max_grad_norm;
  config.clipping = options.clipping;
  config.numerics = options.numerics;
  return plan::PrivacyPlan::derive(config, {}, parameters);
}

at::ScalarType compute_type(const std::string& name) {
  if (name == "fp32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  throw ConfigError("--compute = " + name + ": expected fp32 or bf16");
}

}  // namespace

data::Microbatch read_labelled_batch(const std::filesystem::path& path, const plan::Gpt2Shape& shape) {
  const BatchFile file(path);
  if (file.contains("token_type_ids"))
    throw Unsupported(file.text() + ": token_type_ids are not in this build for GPT-2; leave them out");
  if (file.tokens() > shape.positions)
    throw StateError(file.text() + ": input_ids has " + std::to_string(file.tokens()) +
                     " tokens per example, the model " + std::to_string(shape.positions) + " positions");
  data::Microbatch batch;
  batch.slots = file.examples();
  batch.tokens = file.tokens();
  batch.input_ids = file.read("input_ids");
  for (const int64_t id : batch.input_ids)
    if (id < 0 || id >= shape.vocab)
      throw StateError(file.text() + ": input_ids holds " + std::to_string(id) +
                       ", the model's vocab_size is " + std::to_string(shape.vocab));
  std::vector<int64_t> mask(batch.input_ids.size(), 1);
  if (file.contains("attention_mask")) mask = file.read("attention_mask");
  check_right_padded(file, mask);
  fill_targets(file, shape.vocab, mask, batch);
  for (int64_t b = 0; b < batch.slots; ++b) batch.records.push_back(b);
  return batch;
}

GradientReport clipped_gradients(model::Gpt2& gpt2, const data::Microbatch& batch,
                                 const GradientOptions& options) {
  if (options.microbatch_size < 0)
    throw ConfigError("--microbatch_size: expected a whole number >= 0 (0: all)");
  const int64_t parameters = gpt2.shape().parameter_count();
  const plan::PrivacyPlan plan = plan_of(options, batch.slots, parameters);
  privacy::Clipper clipper(plan, gpt2);
  FlatBuffer<double> sum(parameters);
  kernels::DoubleSink sink(sum.span());
  GradientReport report;
  const double factor_of_nothing = kernels::clip_factor(0, privacy::clipping_of(plan));
  const int64_t size =
      options.microbatch_size > 0 ? options.microbatch_size : std::max<int64_t>(batch.slots, 1);
  for (int64_t begin = 0; begin < batch.slots; begin += size) {
    const data::Microbatch part = slice(batch, begin, std::min(size, batch.slots - begin));
    std::vector<double> losses;
    const auto outcomes = clipper.accumulate_into(part, nullptr, sink, &losses);
    for (int64_t b = 0; b < part.slots; ++b) {
      const bool empty = part.target_counts[b] == 0, finite = std::isfinite(losses[b]);
      report.losses.push_back(losses[b]);
      report.norms.push_back(finite ? outcomes[b].norm : std::numeric_limits<double>::quiet_NaN());
      report.factors.push_back(empty ? factor_of_nothing : outcomes[b].factor);
    }
  }
  report.clipped_sum.assign(sum.data(), sum.data() + parameters);
  return report;
}

void write_gradient_report(const std::filesystem::path& file, const plan::Gpt2Shape& shape,
                           const GradientReport& report) {
  const auto narrow = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  const std::vector<float> losses = narrow(report.losses), norms = narrow(report.norms),
                           factors = narrow(report.factors);
  const int64_t examples = static_cast<int64_t>(losses.size());
  std::vector<model::TensorToWrite> tensors = {
      {"per_example_loss", model::DType::kF32, {examples}, std::as_bytes(std::span(losses))},
      {"per_example_grad_norm", model::DType::kF32, {examples}, std::as_bytes(std::span(norms))},
      {"clip_factor", model::DType::kF32, {examples}, std::as_bytes(std::span(factors))}};
  for (const model::ParameterInfo& p : model::gpt2_parameters(shape))
    tensors.push_back({"clipped_sum/" + p.name, model::DType::kF32, p.shape,
                       std::as_bytes(std::span(report.clipped_sum).subspan(p.offset, p.size))});
  model::write_safetensors(file, tensors, {{"format", "pt"}, {"privacy", "NOT PRIVATE"}});
}

void report_gradients(const std::filesystem::path& model_dir, const std::filesystem::path& batch_file,
                      const GradientOptions& options, const std::filesystem::path& out) {
  FrozenModel frozen(model_dir, compute_type(options.compute));
  const data::Microbatch batch = read_labelled_batch(batch_file, frozen.shape());
  write_gradient_report(out, frozen.shape(), clipped_gradients(frozen.gpt2(), batch, options));
}

}  // namespace dpfa::train
