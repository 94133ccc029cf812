// One call of the fused attention that LibTorch has for the tensors' device and type: softmax(q k^T D^(-1/2))
// v without a T x T matrix, and its backward pass.
//
// q, k, v (B, H, T, D) at any strides with the last one 1, T >= 1. On CPUs: f32, bf16, f64. On GPUs: bf16 by
// flash attention (D a multiple of 8), f32 by the memory-efficient one (D a multiple of 4); the backward pass
// of flash attention adds the gradient of q in an order that may differ from call to call unless LibTorch is
// told to be deterministic (at::globalContext().setDeterministicAlgorithms). Throws Unsupported for others.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <tuple>

namespace dpfa::kernels {

struct FusedAttention {
  at::Tensor out;  // (B, H, T, D)
  // What the backward pass of the same kernel reads.
  at::Tensor logsumexp, query_starts, key_starts, seed, offset;
  int64_t longest_query = 0, longest_key = 0;
};
FusedAttention fused_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal);

// The gradients of q, k, v for the gradient g of `out`; `out` given anew, `call` may have lost its own.
using FusedGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
FusedGradients fused_attention_backward(const at::Tensor& g, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& out,
                                        const FusedAttention& call, bool causal);

}  // namespace dpfa::kernels
