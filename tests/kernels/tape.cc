#include "tests/kernels/tape.h"

#include <torch/csrc/autograd/function.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/reducers.h"
#include "src/base/check.h"

namespace dpfa::kernels::test {
namespace {

using torch::autograd::variable_list;

// A place in LibTorch's graph where the backward pass is our own: it takes the gradient of the output,
// contiguous, and returns those of the inputs.
class KernelNode final : public torch::autograd::Node {
 public:
  using Backward = std::function<variable_list(const at::Tensor&)>;
  explicit KernelNode(Backward backward) : backward_(std::move(backward)) {}

 private:
  variable_list apply(variable_list&& gradients) override { return backward_(gradients.at(0).contiguous()); }
  Backward backward_;
};

// `output`, computed outside of the graph, as a function of the inputs (none for a layer that is the first).
at::Tensor joined(at::Tensor output, const variable_list& inputs, KernelNode::Backward backward) {
  const std::shared_ptr<torch::autograd::Node> node(new KernelNode(std::move(backward)),
                                                    torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  torch::autograd::create_gradient_edge(output, node);
  return output;
}

at::Tensor tensor_of(std::span<const int64_t> values) {
  return at::tensor(at::ArrayRef<int64_t>(values.data(), values.size()), at::kLong);
}

// Row t of an example has position t.
at::Tensor positions_of(std::span<const int64_t> offsets) {
  std::vector<int64_t> positions;
  for (size_t b = 0; b + 1 < offsets.size(); ++b)
    for (int64_t t = 0; t < offsets[b + 1] - offsets[b]; ++t) positions.push_back(t);
  return tensor_of(positions);
}

// The type of sums over a row or over tokens.
at::ScalarType sum_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace

void Parameters::add(std::string name, at::Tensor value, bool is_trained) {
  DPFA_CHECK(find(name) == nullptr, name, " twice");
  const int64_t size = value.numel();
  all_.push_back({std::move(name), std::move(value), is_trained ? std::optional(count_) : std::nullopt});
  if (is_trained) count_ += size;
}

const Parameter* Parameters::find(const std::string& name) const {
  for (const Parameter& p : all_)
    if (p.name == name) return &p;
  return nullptr;
}

Tape::Tape(const Parameters& parameters, std::span<const int64_t> offsets, at::ScalarType type,
           bool differentiates)
    : parameters_(parameters), offsets_(offsets), type_(type) {
  for (const Parameter& p : parameters.all()) {
    values_.push_back(p.value.to(type, /*non_blocking=*/false, /*copy=*/true));
    values_.back().set_requires_grad(differentiates && p.offset.has_value());
  }
}

const Parameter& Tape::parameter(const std::string& name) const {
  const Parameter* found = parameters_.find(name);
  DPFA_CHECK(found != nullptr, "no parameter ", name);
  return *found;
}

at::Tensor Tape::value(const std::string& name) const {
  const Parameter* found = parameters_.find(name);
  return found == nullptr ? at::Tensor() : values_[found - parameters_.all().data()];
}

PlainTape::PlainTape(const Parameters& parameters, std::span<const int64_t> offsets, at::ScalarType type)
    : Tape(parameters, offsets, type, /*differentiates=*/true) {
  DPFA_CHECK(offsets.size() == 2, "one example");
}

at::Tensor PlainTape::linear(const at::Tensor& x, const std::string& name) {
  return at::linear(x, value(name + ".weight"), value(name + ".bias"));
}

at::Tensor PlainTape::layer_norm(const at::Tensor& x, const std::string& name, double epsilon) {
  return at::layer_norm(x, {x.size(1)}, value(name + ".weight"), value(name + ".bias"), epsilon);
}

at::Tensor PlainTape::rms_norm(const at::Tensor& x, const std::string& name, double epsilon) {
  return x * at::rsqrt(x.square().mean(1, /*keepdim=*/true) + epsilon) * value(name + ".weight");
}

at::Tensor PlainTape::attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const Heads& heads) {
  const int64_t tokens = q.size(0);
  const auto split = [&](const at::Tensor& rows, int64_t count) {
    return rows.view({tokens, count, heads.width})
        .transpose(0, 1)
        .repeat_interleave(heads.queries / count, 0);
  };
  at::Tensor scores = split(q, heads.queries).bmm(split(k, heads.keys).transpose(1, 2)) /
                      std::sqrt(static_cast<double>(heads.width));
  if (heads.causal)
    scores = scores.masked_fill(at::ones({tokens, tokens}, at::kBool).triu(1),
                                -std::numeric_limits<double>::infinity());
  return scores.softmax(2).bmm(split(v, heads.keys)).transpose(0, 1).reshape({tokens, q.size(1)});
}

at::Tensor PlainTape::embedding(std::span<const int64_t> ids, const std::string& name,
                                const std::string& positions) {
  const at::Tensor rows = at::embedding(value(name + ".weight"), tensor_of(ids));
  if (positions.empty()) return rows;
  return rows + value(positions + ".weight").narrow(0, 0, rows.size(0));
}

at::Tensor PlainTape::marked_rows(const at::Tensor& marks, const std::string& name) {
  return marks * value(name);
}

at::Tensor PlainTape::gradient(const at::Tensor& loss) const {
  loss.backward();
  std::vector<at::Tensor> parts;
  for (const at::Tensor& value : values()) {
    if (!value.requires_grad()) continue;
    DPFA_CHECK(value.grad().defined(), "a trained parameter without a gradient");
    parts.push_back(value.grad().reshape(-1).to(at::kDouble));
  }
  return at::cat(parts);
}

RecordingTape::RecordingTape(const Parameters& parameters, std::span<const int64_t> offsets,
                             at::ScalarType type, AttentionPath path)
    : Tape(parameters, offsets, type, /*differentiates=*/false), path_(path) {
  records_.offsets.assign(offsets.begin(), offsets.end());
}

void RecordingTape::record_vector(const std::string& name, const at::Tensor& per_example) {
  const std::optional<int64_t> offset = parameter(name).offset;
  if (offset) records_.vectors.push_back({per_example, *offset});
}

at::Tensor RecordingTape::linear(const at::Tensor& x, const std::string& name) {
  const at::Tensor weight = value(name + ".weight"), input = x.detach().contiguous();
  at::Tensor output = at::empty({x.size(0), weight.size(0)}, input.options());
  multiply(input, weight.t(), output, value(name + ".bias"));
  return joined(output, {x}, [=, this](const at::Tensor& g) -> variable_list {
    const std::optional<int64_t> offset = parameter(name + ".weight").offset;
    if (offset) records_.linears.push_back({input, g, *offset, /*output_major=*/true});
    if (has(name + ".bias")) record_vector(name + ".bias", bias_gradient(g, offsets()));
    at::Tensor dx = at::empty_like(input);
    multiply(g, weight, dx);
    return {dx};
  });
}

at::Tensor RecordingTape::layer_norm(const at::Tensor& x, const std::string& name, double epsilon) {
  const at::Tensor gain = value(name + ".weight"), input = x.detach().contiguous();
  at::Tensor output = at::empty_like(input);
  at::Tensor mean = at::empty({x.size(0)}, input.options().dtype(sum_type(type())));
  at::Tensor rstd = at::empty_like(mean);
  kernels::layer_norm(input, gain, value(name + ".bias"), epsilon, output, mean, rstd);
  return joined(output, {x}, [=, this](const at::Tensor& g) -> variable_list {
    const auto [of_gain, of_shift] = layer_norm_gradient(g, input, mean, rstd, offsets());
    record_vector(name + ".weight", of_gain);
    record_vector(name + ".bias", of_shift);
    at::Tensor dx = at::empty_like(input);
    layer_norm_input_gradient(g, input, gain, mean, rstd, /*accumulate=*/false, dx);
    return {dx};
  });
}

// The kernels have the gradient of the gain; the input's is LibTorch's.
at::Tensor RecordingTape::rms_norm(const at::Tensor& x, const std::string& name, double epsilon) {
  const at::Tensor wide = x.to(sum_type(type())), gain = value(name + ".weight");
  const at::Tensor rstd = at::rsqrt(wide.square().mean(1, /*keepdim=*/true) + epsilon);
  const at::Tensor normalised = wide * rstd, input = x.detach().contiguous();
  const at::Tensor output = (normalised.detach() * gain).to(type());
  return joined(output, {normalised}, [=, this](const at::Tensor& g) -> variable_list {
    record_vector(name + ".weight", rms_norm_gradient(g, input, rstd.detach().squeeze(1), offsets()));
    return {g * gain.to(sum_type(type()))};
  });
}

at::Tensor RecordingTape::attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const Heads& heads) {
  const AttentionShape shape{offsets(), heads.queries, heads.keys, heads.width, heads.causal};
  const at::Tensor query = q.detach().contiguous(), key = k.detach().contiguous(),
                   value = v.detach().contiguous();
  at::Tensor output = at::empty_like(query);
  const auto state = std::make_shared<AttentionState>();
  kernels::attention(shape, path_, query, key, value, output, *state);
  // `output` itself would keep the node that keeps this function.
  return joined(output, {q, k, v}, [=, this, out = output.detach()](const at::Tensor& g) -> variable_list {
    at::Tensor dq = at::empty_like(query), dk = at::empty_like(key), dv = at::empty_like(value);
    attention_backward(shape, path_, g, query, key, value, out, *state, dq, dk, dv);
    return {dq, dk, dv};
  });
}

at::Tensor RecordingTape::embedding(std::span<const int64_t> ids, const std::string& name,
                                    const std::string& positions) {
  const std::vector<int64_t>& kept = ids_.emplace_back(ids.begin(), ids.end());
  at::Tensor output = value(name + ".weight").index_select(0, tensor_of(ids));
  std::optional<int64_t> position_offset;
  if (!positions.empty()) {
    output += value(positions + ".weight").index_select(0, positions_of(offsets()));
    position_offset = parameter(positions + ".weight").offset;
  }
  return joined(output, {}, [=, this, &kept](const at::Tensor& g) -> variable_list {
    const std::optional<int64_t> offset = parameter(name + ".weight").offset;
    DPFA_CHECK(offset || !position_offset, "no record has trained positions beside a frozen table");
    if (!offset) return {};
    EmbeddingRecord record{kept, g, *offset, position_offset, std::nullopt};
    for (size_t k = 0; k < records_.linears.size(); ++k)
      if (records_.linears[k].offset == *offset) record.tied_head = k;
    records_.embeddings.push_back(record);
    return {};
  });
}

at::Tensor RecordingTape::marked_rows(const at::Tensor& marks, const std::string& name) {
  return joined(marks * value(name), {}, [=, this](const at::Tensor& g) -> variable_list {
    record_vector(name, bias_gradient(g * marks, offsets()));
    return {};
  });
}

const GradientRecords& RecordingTape::backward(const at::Tensor& output, const at::Tensor& gradient) {
  output.backward(gradient);
  return records_;
}

}  // namespace dpfa::kernels::test
