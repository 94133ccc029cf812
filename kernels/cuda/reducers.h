// Per-example gradients of what is no matrix product: bias, LayerNorm and RMSNorm vectors, embeddings.
//
// offsets (B + 1): example b owns rows [offsets[b], offsets[b + 1]). Inputs are raw bits of bfloat16 (rows,
// n), contiguous, null where no example has tokens; results (B, n) f32, summed in double in an order that
// depends on the example's own length alone. An example without tokens gets zeros. All pointers are device
// memory; work is put on `stream`.
//
// Embeddings: never a dense (V, C) table per example. Rows with one id in one example are a group;
// TokenGroups sorts them once per microbatch on the host, where the ids are.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

#include "kernels/cuda/device.h"
#include "kernels/cuda/token_groups.h"

namespace dpfa::kernels::cuda {

struct RowsOfExamples {
  const int64_t* offsets;  // (B + 1)
  int64_t examples;
  int64_t columns;  // n
};

// out = sum_t g_t
void bias_gradient(const RowsOfExamples& shape, const uint16_t* g, float* out, cudaStream_t stream);
// gain = sum_t g_t (x_t - mean_t) rstd_t, shift = sum_t g_t; mean, rstd (rows) f32. RMSNorm: mean and shift
// null.
void norm_layer_gradient(const RowsOfExamples& shape, const uint16_t* g, const uint16_t* x, const float* mean,
                         const float* rstd, float* gain, float* shift, cudaStream_t stream);

// squares (B) := the squared norms of values (B, n), in double, in a fixed order.
void vector_squares(const float* values, int64_t examples, int64_t columns, double* squares,
                    cudaStream_t stream);
// sum[i] += sum_b round(scales[b] values[b][i]); examples with scale 0 are skipped.
void add_integers(const float* values, const float* scales, int64_t examples, int64_t columns, int32_t* sum,
                  cudaStream_t stream);

// TokenGroups on the device.
struct DeviceTokenGroups {
  explicit DeviceTokenGroups(const TokenGroups& groups);
  int64_t groups() const { return ids.size(); }
  DeviceArray<int64_t> positions, first_position, ids, first_group;
};
// rows (groups, n) f32: row gradients g (tokens, n) summed over each group's positions, in ascending order.
void embedding_rows(const DeviceTokenGroups& groups, const uint16_t* g, int64_t columns, float* rows,
                    cudaStream_t stream);
// squares (B) := the squared norm of each example's rows (groups, n).
void token_row_squares(const DeviceTokenGroups& groups, int64_t examples, const float* rows, int64_t columns,
                       double* squares, cudaStream_t stream);
// table[ids[u] n + c] += round(scale rows[u][c]), the scale that of the group's example. Integer additions:
// the order in which examples meet in one row changes nothing.
void add_row_integers(const DeviceTokenGroups& groups, int64_t examples, const float* rows, int64_t columns,
                      const float* scales, int32_t* table, cudaStream_t stream);
// Learned positions, each at most once per example: row gradients g (tokens, n) are the gradient. squares (B)
// := the squared norm of each example's rows; integers of row t of an example go to position t.
void position_squares(const RowsOfExamples& shape, const uint16_t* g, double* squares, cudaStream_t stream);
void add_position_integers(const RowsOfExamples& shape, const uint16_t* g, const float* scales,
                           int64_t positions, int32_t* table, cudaStream_t stream);

// The cross term of a tied table, for norms that are not measured from the table itself: terms (B) = sum over
// t, u of (g_t . h_u) z[u][ids[t]] = <E, z^T h>, and magnitudes (B), sums of |g_t| |h_u| |z[u][ids[t]]|,
// which bound its error: |computed - exact| <= product_error(n) x magnitude (error_bound.h). |W|^2 = |E|^2 +
// |z^T h|^2 + 2 term. g, h (tokens, n) at strides of multiples of 8, aligned to 16 bytes; z (tokens,
// vocabulary); ids (tokens).
struct TiedHead {
  const uint16_t *g, *h, *z;
  int64_t g_stride, h_stride, z_stride;
  const int64_t* ids;
};
class CrossTermPlan {
 public:
  CrossTermPlan(std::span<const int64_t> offsets, int64_t columns);
  void run(const TiedHead& head, double* terms, double* magnitudes, cudaStream_t stream);

 private:
  int64_t examples_, columns_, rows_, tasks_;
  DeviceArray<int64_t> offsets_, first_;
  DeviceArray<float> norms_;   // (2, rows)
  DeviceArray<double> slots_;  // 2 x tasks x warps
};

}  // namespace dpfa::kernels::cuda
