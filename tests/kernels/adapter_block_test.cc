// A decoder block of the kind that Llama has (RMSNorm, grouped queries, no bias) in which all matrices are
// frozen but adapters of low rank (Hu et al. 2021, arXiv 2106.09685): records of the trainable parameters
// alone, every route, against one example at a time by automatic differentiation in double.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention.h"
#include "kernels/norm_route.h"
#include "kernels/reducers.h"
#include "tests/kernels/random_matrix.h"

namespace dpfa::kernels {
namespace {

constexpr int64_t kWidth = 24, kHeads = 4, kKeyHeads = 2, kHeadWidth = 8, kRank = 3;
constexpr int64_t kQueries = kHeads * kHeadWidth, kKeys = kKeyHeads * kHeadWidth;
constexpr double kEpsilon = 1e-5, kAdapterScale = 2, kMaxGradNorm = 0.7;

// Adapters as in PyTorch: down (rank, inputs), up (outputs, rank); y = x W + scale (x down^T) up^T.
struct Weights {
  at::Tensor query, key, value, output;                         // frozen, (inputs, outputs)
  at::Tensor gain, query_down, query_up, value_down, value_up;  // trainable, in this order in the sum

  std::vector<at::Tensor*> trainable() { return {&gain, &query_down, &query_up, &value_down, &value_up}; }
  std::vector<at::Tensor*> all() {
    return {&query, &key, &value, &output, &gain, &query_down, &query_up, &value_down, &value_up};
  }
};

Weights make_weights(at::ScalarType type) {
  const auto made = [](int64_t rows, int64_t columns, uint64_t seed) {
    return random_matrix(rows, columns, seed) / std::sqrt(static_cast<double>(rows));
  };
  Weights w{made(kWidth, kQueries, 1),
            made(kWidth, kKeys, 2),
            made(kWidth, kKeys, 3),
            made(kQueries, kWidth, 4),
            random_matrix(1, kWidth, 5).view(-1),
            made(kRank, kWidth, 6),
            made(kQueries, kRank, 7),
            made(kRank, kWidth, 8),
            made(kKeys, kRank, 9)};
  for (at::Tensor* weight : w.all()) *weight = weight->to(type);
  return w;
}

struct Examples {
  std::vector<int64_t> offsets = {0};
  at::Tensor input, target;  // (N, width), f64
};

Examples make_examples() {
  Examples e;
  for (int64_t length : {64, 1, 0, 257, 2, 63, 129, 65, 127}) e.offsets.push_back(e.offsets.back() + length);
  e.input = random_matrix(e.offsets.back(), kWidth, 10);
  e.target = 0.1 * random_matrix(e.offsets.back(), kWidth, 11);
  return e;
}

// The gradient of 1/2 sum |y - target|^2 of one example by LibTorch, all trainable parameters in one vector.
at::Tensor gradient_alone(const Examples& e, int64_t example) {
  const int64_t begin = e.offsets[example], tokens = e.offsets[example + 1] - begin;
  Weights w = make_weights(at::kDouble);
  for (at::Tensor* weight : w.trainable()) weight->set_requires_grad(true);
  const at::Tensor x = e.input.narrow(0, begin, tokens);
  const at::Tensor n = x * at::rsqrt(x.square().mean(1, true) + kEpsilon) * w.gain;
  const auto adapted = [&](const at::Tensor& frozen, const at::Tensor& down, const at::Tensor& up) {
    return n.mm(frozen) + kAdapterScale * n.mm(down.t()).mm(up.t());
  };
  const auto heads = [&](const at::Tensor& rows, int64_t count) {
    return rows.view({tokens, count, kHeadWidth}).transpose(0, 1).repeat_interleave(kHeads / count, 0);
  };
  const at::Tensor q = heads(adapted(w.query, w.query_down, w.query_up), kHeads);
  const at::Tensor k = heads(n.mm(w.key), kKeyHeads);
  const at::Tensor v = heads(adapted(w.value, w.value_down, w.value_up), kKeyHeads);
  const at::Tensor future = at::ones({tokens, tokens}, at::kBool).triu(1);
  const at::Tensor scores = (q.bmm(k.transpose(1, 2)) / std::sqrt(double{kHeadWidth}))
                                .masked_fill(future, -std::numeric_limits<double>::infinity());
  const at::Tensor attended = scores.softmax(2).bmm(v).transpose(0, 1).reshape({tokens, kQueries});
  (0.5 * (x + attended.mm(w.output) - e.target.narrow(0, begin, tokens)).square().sum()).backward();
  std::vector<at::Tensor> parts;
  for (at::Tensor* weight : w.trainable()) parts.push_back(weight->grad().reshape(-1));
  return at::cat(parts);
}

const std::vector<at::Tensor>& gradients_alone() {
  static const std::vector<at::Tensor> gradients = [] {
    const Examples e = make_examples();
    std::vector<at::Tensor> result;
    for (size_t b = 0; b + 1 < e.offsets.size(); ++b)
      result.push_back(gradient_alone(e, static_cast<int64_t>(b)));
    return result;
  }();
  return gradients;
}

// Forward and backward of all examples at once, with the kernels.
GradientRecords records_of(const Examples& e, at::ScalarType type, AttentionPath path) {
  Weights w = make_weights(type);
  const at::Tensor x = e.input.to(type), target = e.target.to(type);
  const at::Tensor rstd = at::rsqrt(x.square().mean(1) + kEpsilon);
  const at::Tensor n = x * rstd.unsqueeze(1) * w.gain;
  const at::Tensor query_low = n.mm(w.query_down.t()), value_low = n.mm(w.value_down.t());
  const at::Tensor q = n.mm(w.query) + kAdapterScale * query_low.mm(w.query_up.t());
  const at::Tensor k = n.mm(w.key);
  const at::Tensor v = n.mm(w.value) + kAdapterScale * value_low.mm(w.value_up.t());
  const AttentionShape shape{e.offsets, kHeads, kKeyHeads, kHeadWidth};
  at::Tensor out = at::empty_like(q), dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
  AttentionState state;
  attention(shape, path, q, k, v, out, state);
  const at::Tensor dy = x + out.mm(w.output) - target;
  attention_backward(shape, path, dy.mm(w.output.t()), q, k, v, out, state, dq, dk, dv);
  const at::Tensor query_up_gradient = kAdapterScale * dq, value_up_gradient = kAdapterScale * dv;
  const at::Tensor query_low_gradient = query_up_gradient.mm(w.query_up),
                   value_low_gradient = value_up_gradient.mm(w.value_up);
  const at::Tensor dn = dq.mm(w.query.t()) + query_low_gradient.mm(w.query_down) + dk.mm(w.key.t()) +
                        dv.mm(w.value.t()) + value_low_gradient.mm(w.value_down);
  GradientRecords records;
  records.offsets = e.offsets;
  records.vectors.push_back({rms_norm_gradient(dn, x, rstd, e.offsets), 0});
  int64_t offset = kWidth;
  const auto add = [&](const at::Tensor& input, const at::Tensor& gradient) {
    records.linears.push_back({input.contiguous(), gradient.contiguous(), offset, /*output_major=*/true});
    offset += input.size(1) * gradient.size(1);
  };
  add(n, query_low_gradient);
  add(query_low, query_up_gradient);
  add(n, value_low_gradient);
  add(value_low, value_up_gradient);
  return records;
}

struct Case {
  std::string route;
  at::ScalarType type;
  AttentionPath path;
};

class AdapterBlock : public testing::TestWithParam<Case> {};

// Tolerances: in double the rounding of sums of a few thousand products; in f32 that of about a hundred
// roundings of 2^-24 in a row, relative to the norm.
TEST_P(AdapterBlock, NormsAndClippedSumAreThoseOfOneExampleAtATime) {
  const Examples e = make_examples();
  const auto examples = static_cast<int64_t>(e.offsets.size()) - 1;
  const GradientRecords records = records_of(e, GetParam().type, GetParam().path);
  const double tolerance = GetParam().type == at::kDouble ? 1e-11 : 1e-5;

  const std::vector<at::Tensor>& alone = gradients_alone();
  at::Tensor expected = at::zeros_like(alone[0]);
  for (const at::Tensor& gradient : alone)
    expected += gradient * std::min(1.0, kMaxGradNorm / std::max(gradient.norm().item<double>(), 1e-300));

  std::vector<double> sum(expected.numel());
  DoubleSink sink(sum);
  std::vector<ExampleOutcome> outcomes(examples);
  const auto route =
      GetParam().route == "exact" ? make_exact_route() : make_gram_route({.method = GetParam().route});
  route->accumulate(records, std::vector<uint8_t>(examples, 1), kMaxGradNorm, sink, outcomes);
  for (int64_t b = 0; b < examples; ++b) {
    const double norm = alone[b].norm().item<double>();
    EXPECT_NEAR(outcomes[b].norm, norm, tolerance * norm) << "example " << b;
  }
  const at::Tensor difference = at::tensor(sum, at::kDouble) - expected;
  EXPECT_LE(difference.norm().item<double>(), tolerance * kMaxGradNorm * static_cast<double>(examples));
  EXPECT_GT(expected.norm().item<double>(), kMaxGradNorm / 2);
}

std::vector<Case> cases() {
  std::vector<Case> result;
  for (const char* route : {"exact", "gram", "direct", "materialise"})
    for (const auto type : {at::kDouble, at::kFloat})
      for (const auto path : {AttentionPath::kExact, AttentionPath::kFlash})
        result.push_back({route, type, path});
  return result;
}

INSTANTIATE_TEST_SUITE_P(Routes, AdapterBlock, testing::ValuesIn(cases()), [](const auto& test) {
  return test.param.route + (test.param.type == at::kDouble ? "_fp64" : "_fp32") +
         (test.param.path == AttentionPath::kFlash ? "_flash" : "_exact_attention");
});

}  // namespace
}  // namespace dpfa::kernels
