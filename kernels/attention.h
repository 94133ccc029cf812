// Softmax attention within each example, forward and backward, over examples of any lengths that lie one
// behind another: no work on padding, and an example's numbers depend on its own rows alone.
//
// H query heads share KH key and value heads (grouped-query attention: H a multiple of KH, query head h reads
// key head h / (H / KH)). Query rows are (N, H D), key and value rows (N, KH D), at any row stride, so that
// they may be parts of one fused projection; N = offsets[B]. Scores are scaled by D^(-1/2).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/fused_attention.h"

namespace dpfa::kernels {

enum class AttentionPath {
  kFlash,  // LibTorch's fused attention of the tensors' device: no T x T matrix is kept
  kExact,  // the definition, one example at a time: for tests, and for comparing with
};

struct AttentionShape {
  std::span<const int64_t> offsets;  // (B + 1): rows of each example; an example may have none
  int64_t heads, key_heads, head_width;
  bool causal = true;
};

// What the backward pass needs besides inputs and output.
struct AttentionState {
  std::vector<FusedAttention> calls;  // their outputs are not kept
};

// out (N, H D) contiguous.
void attention(const AttentionShape& shape, AttentionPath path, const at::Tensor& query,
               const at::Tensor& key, const at::Tensor& value, at::Tensor& out, AttentionState& state);

// The gradients of query, key and value for the gradient g (N, H D) of `out`, written to dq, dk, dv (shaped
// like query, key, value; rows at any stride). They may be query, key and value themselves where H = KH.
void attention_backward(const AttentionShape& shape, AttentionPath path, const at::Tensor& g,
                        const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                        const at::Tensor& out, const AttentionState& state, at::Tensor& dq, at::Tensor& dk,
                        at::Tensor& dv);

}  // namespace dpfa::kernels
