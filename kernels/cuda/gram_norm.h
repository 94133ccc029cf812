// Squared norms of per-example gradients x^T g of many matrices, from the Gram matrices of x and g by
// symmetric tiles, with a certified error bound. Neither a T x T matrix nor a gradient ever exists in memory.
//
// Guarantee: results()[u (B) + b] holds |squared - exact| <= error for every input under the assumption of
// error_bound.h, or a NaN or an infinity; an example's result has the same bits for any neighbours, any place
// in the batch and any other matrix in a plan on the same path. What was not computed is NaN: every slot is
// NaN before a run.
//
// Source of the identity: Goodfellow 2015 (arXiv 1510.01799), Li et al. 2022 (arXiv 2110.05679); bias and
// groups: |x^T g|^2 + |1^T g|^2 = sum (x_t . x_t' + 1) (g_t . g_t').
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/cuda/device.h"
#include "kernels/cuda/error_bound.h"
#include "kernels/cuda/tensor_path.h"

namespace dpfa::kernels::cuda {

// A linear layer's record: x (rows, inputs) and g (rows, outputs), raw bits of bfloat16, on the device.
// Pointers are aligned to 16 bytes and strides are multiples of 8 numbers; widths are free.
struct GramMatrix {
  const uint16_t* x;
  int64_t x_stride, inputs;
  const uint16_t* g;
  int64_t g_stride, outputs;
  // Equal blocks of outputs with a norm each (heads; query, key, value): they share the Gram matrix of x.
  // Widths of blocks are multiples of 8 where there are several.
  int64_t groups = 1;
  bool bias = false;  // the norm of the bias gradient of each block is included
};

class GramNormPlan {
 public:
  // offsets (B + 1): example b owns rows [offsets[b], offsets[b + 1]) of every matrix. The path is that of
  // choose_path(); wgmma wants blocks of outputs of multiples of 64 where there are several, and
  // strides below 2^39 numbers.
  // Throws InternalError for shapes, strides and pointers that do not fit, Unsupported for a path that the
  // device lacks.
  GramNormPlan(std::span<const GramMatrix> matrices, std::span<const int64_t> offsets,
               std::optional<TensorPath> path = std::nullopt);

  // Puts the whole plan on the stream: all matrices in one launch, so no barrier stands between layers.
  void run(cudaStream_t stream);

  // A unit is one block of outputs of one matrix, numbered matrix by matrix.
  int64_t units() const { return units_; }
  int64_t examples() const { return examples_; }
  TensorPath path() const { return path_; }
  // On the device, (units, B). Valid after run() until the next; clip.h completes those of a tied table.
  const GramResult* results() const { return results_.data(); }
  GramResult* results() { return results_.data(); }
  // On the device, (units, B): 1 where the norm may stand for that of the product (is_certified), else 0.
  const uint8_t* certified() const { return certified_.data(); }
  uint8_t* certified() { return certified_.data(); }

 private:
  int64_t units_ = 0, examples_ = 0, rows_ = 0, tasks_ = 0;
  TensorPath path_;
  DeviceArray<uint8_t> matrices_, maps_;  // tables of the kernels, as bytes: their types are private to them
  DeviceArray<int64_t> offsets_, first_;
  DeviceArray<int64_t> unit_matrix_;
  DeviceArray<float> x_norms_, g_norms_;
  DeviceArray<double> slots_;  // 3 x units x tasks of one matrix x warps
  DeviceArray<GramResult> results_;
  DeviceArray<uint8_t> certified_;
  int64_t matrix_count_ = 0;
};

}  // namespace dpfa::kernels::cuda
