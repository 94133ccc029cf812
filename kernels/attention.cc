#include "kernels/attention.h"

#include <cmath>
#include <limits>

#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::kernels {
namespace {

// Consecutive examples of one length: rows [row, row + examples x tokens).
struct Run {
  int64_t row, examples, tokens;
};

// LibTorch's kernels work on one (example, head, block of queries) at a time, so examples of a run do not
// meet. That of the CPU raises SIGFPE for examples without a token: those are left out here.
std::vector<Run> runs_of(std::span<const int64_t> offsets, int64_t longest_run) {
  std::vector<Run> runs;
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    const int64_t tokens = offsets[b + 1] - offsets[b];
    if (tokens == 0) continue;
    const bool continues = !runs.empty() && runs.back().tokens == tokens &&
                           runs.back().row + runs.back().examples * tokens == offsets[b] &&
                           runs.back().examples < longest_run;
    if (continues)
      ++runs.back().examples;
    else
      runs.push_back({offsets[b], 1, tokens});
  }
  return runs;
}

void check(const AttentionShape& s, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  DPFA_CHECK(s.key_heads >= 1 && s.heads % s.key_heads == 0, s.heads, " heads for ", s.key_heads);
  DPFA_CHECK(query.size(1) == s.heads * s.head_width && key.size(1) == s.key_heads * s.head_width &&
             value.size(1) == s.key_heads * s.head_width);
  DPFA_CHECK(query.stride(1) == 1 && key.stride(1) == 1 && value.stride(1) == 1);
}

// Member `member` of every group of heads, as (examples, KH, tokens, D): a view.
at::Tensor heads_of(const AttentionShape& s, const at::Tensor& rows, const Run& run, int64_t member) {
  const int64_t group = rows.size(1) / (s.key_heads * s.head_width);
  return rows.narrow(0, run.row, run.examples * run.tokens)
      .view({run.examples, run.tokens, s.key_heads, group, s.head_width})
      .select(3, group == 1 ? 0 : member)
      .transpose(1, 2);
}

struct Exact {
  at::Tensor probabilities;  // (1, KH, T, T)
  double scale;
};

Exact probabilities_of(const AttentionShape& s, const at::Tensor& q, const at::Tensor& k) {
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_width));
  at::Tensor scores = at::matmul(q, k.transpose(2, 3)).mul_(scale);
  if (s.causal) {
    const int64_t tokens = q.size(2);
    const at::Tensor later = at::ones({tokens, tokens}, q.options().dtype(at::kBool)).triu(1);
    scores.masked_fill_(later, -std::numeric_limits<double>::infinity());
  }
  return {at::softmax(scores, -1), scale};
}

FusedGradients exact_backward(const AttentionShape& s, const at::Tensor& g, const at::Tensor& q,
                              const at::Tensor& k, const at::Tensor& v) {
  const auto [p, scale] = probabilities_of(s, q, k);
  const at::Tensor dp = at::matmul(g, v.transpose(2, 3));
  const at::Tensor ds = p.mul(dp.sub(dp.mul(p).sum(-1, /*keepdim=*/true))).mul_(scale);
  return {at::matmul(ds, k), at::matmul(ds.transpose(2, 3), q), at::matmul(p.transpose(2, 3), g)};
}

// Members of a group share keys: the first one writes their gradient, the others add to it.
void put(const at::Tensor& target, const at::Tensor& gradient, bool adds) {
  adds ? target.add_(gradient) : target.copy_(gradient);
}

// The planted mistakes of a kernel that is chosen by what else is in the pass.
bool takes_another_kernel(const std::vector<Run>& runs, const Run& run) {
  return (DPFA_PLANT("pair_takes_another_kernel") && run.examples == 2) ||
         (DPFA_PLANT("third_length_takes_another_kernel") && &run - runs.data() >= 2);
}

// LibTorch's kernel for CPUs gives each thread a piece of one buffer, and products of f32 with 8 channels and
// odd lengths below 32 have other bits at another alignment: as many examples in one call decide which thread
// takes which. A call with one head of one example lets the threads share each product instead, which has
// other bits too. More heads of 16 channels and more showed nothing (tests/kernels/attention_test.cc).
constexpr int64_t kNarrowHead = 16;

int64_t longest_run(const AttentionShape& s, AttentionPath path, const at::Tensor& query) {
  const bool is_alone =
      path == AttentionPath::kExact || (query.is_cpu() && (s.head_width < kNarrowHead || s.key_heads == 1));
  return is_alone ? 1 : std::numeric_limits<int64_t>::max();
}

}  // namespace

void attention(const AttentionShape& shape, AttentionPath path, const at::Tensor& query,
               const at::Tensor& key, const at::Tensor& value, at::Tensor& out, AttentionState& state) {
  check(shape, query, key, value);
  state.calls.clear();
  const std::vector<Run> runs = runs_of(shape.offsets, longest_run(shape, path, query));
  for (const Run& run : runs) {
    const at::Tensor k = heads_of(shape, key, run, 0), v = heads_of(shape, value, run, 0);
    for (int64_t member = 0; member < shape.heads / shape.key_heads; ++member) {
      const at::Tensor q = heads_of(shape, query, run, member), target = heads_of(shape, out, run, member);
      if (path == AttentionPath::kExact) {
        target.copy_(at::matmul(probabilities_of(shape, q, k).probabilities, v));
        continue;
      }
      FusedAttention call = fused_attention(q, k, v, shape.causal);
      target.copy_(call.out);
      if (takes_another_kernel(runs, run)) target.mul_(1 + 0x1p-7);
      call.out.reset();
      state.calls.push_back(std::move(call));
    }
  }
}

void attention_backward(const AttentionShape& shape, AttentionPath path, const at::Tensor& g,
                        const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                        const at::Tensor& out, const AttentionState& state, at::Tensor& dq, at::Tensor& dk,
                        at::Tensor& dv) {
  check(shape, query, key, value);
  DPFA_CHECK(shape.heads == shape.key_heads || dk.const_data_ptr() != key.const_data_ptr());
  size_t next = 0;
  for (const Run& run : runs_of(shape.offsets, longest_run(shape, path, query))) {
    const at::Tensor k = heads_of(shape, key, run, 0), v = heads_of(shape, value, run, 0);
    for (int64_t member = 0; member < shape.heads / shape.key_heads; ++member) {
      const at::Tensor q = heads_of(shape, query, run, member), gradient = heads_of(shape, g, run, member);
      const auto [a, b, c] =
          path == AttentionPath::kExact
              ? exact_backward(shape, gradient, q, k, v)
              : fused_attention_backward(gradient, q, k, v, heads_of(shape, out, run, member),
                                         state.calls.at(next++), shape.causal);
      heads_of(shape, dq, run, member).copy_(a);
      put(heads_of(shape, dk, run, 0), b, member > 0);
      put(heads_of(shape, dv, run, 0), c, member > 0);
    }
  }
}

}  // namespace dpfa::kernels
