#include "kernels/fused_attention.h"

#include "src/base/error.h"

namespace dpfa::kernels {
namespace {

constexpr double kNoDropout = 0;

enum class Kernel { kCpuFlash, kFlash, kMemoryEfficient };

Kernel kernel_for(const at::Tensor& q) {
  if (q.is_cpu()) return Kernel::kCpuFlash;
  const int64_t width = q.size(3);
  if (q.is_cuda() && q.scalar_type() == at::kBFloat16 && width % 8 == 0) return Kernel::kFlash;
  if (q.is_cuda() && q.scalar_type() == at::kFloat && width % 4 == 0) return Kernel::kMemoryEfficient;
  throw Unsupported("no fused attention for heads of " + std::to_string(width) + " channels in " +
                    c10::toString(q.scalar_type()) + " on " + q.device().str() +
                    ": use bf16 with a multiple of 8 or fp32 with a multiple of 4 channels per head");
}

}  // namespace

FusedAttention fused_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
  FusedAttention call;
  switch (kernel_for(q)) {
    case Kernel::kCpuFlash:
      std::tie(call.out, call.logsumexp) =
          at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, kNoDropout, causal);
      break;
    case Kernel::kFlash: {
      auto [out, logsumexp, query_starts, key_starts, longest_query, longest_key, seed, offset, unused] =
          at::_scaled_dot_product_flash_attention(q, k, v, kNoDropout, causal);
      call = {out,
              logsumexp,
              query_starts,
              key_starts,
              seed,
              offset,
              longest_query.expect_int(),
              longest_key.expect_int()};
      break;
    }
    case Kernel::kMemoryEfficient:
      std::tie(call.out, call.logsumexp, call.seed, call.offset) =
          at::_scaled_dot_product_efficient_attention(q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/true,
                                                      kNoDropout, causal);
      break;
  }
  return call;
}

FusedGradients fused_attention_backward(const at::Tensor& g, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& out,
                                        const FusedAttention& call, bool causal) {
  switch (kernel_for(q)) {
    case Kernel::kCpuFlash:
      return at::_scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, out, call.logsumexp,
                                                                      kNoDropout, causal);
    case Kernel::kFlash:
      return at::_scaled_dot_product_flash_attention_backward(
          g, q, k, v, out, call.logsumexp, call.query_starts, call.key_starts, call.longest_query,
          call.longest_key, kNoDropout, causal, call.seed, call.offset);
    case Kernel::kMemoryEfficient: {
      const auto [dq, dk, dv, unused] = at::_scaled_dot_product_efficient_attention_backward(
          g, q, k, v, /*attn_bias=*/{}, out, call.logsumexp, call.seed, call.offset, kNoDropout,
          /*grad_input_mask=*/{true, true, true, false}, causal);
      return {dq, dk, dv};
    }
  }
  throw InternalError("a kernel of attention without a backward pass");
}

}  // namespace dpfa::kernels
