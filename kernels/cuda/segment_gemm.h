// Products over tokens, cut at example boundaries: sum_b c_b L_b^T R_b of many matrices, where L_b and
// R_b are the rows of example b. What becomes of an example's finished product chooses the route:
//   squares      its squared norm alone (route D, and the first pass of numerics = exact)
//   materialise  bfloat16 in memory, and the squared norm of the rounded numbers (route M)
//   add_integers round(scale_b product) added to an integer sum: numerics = exact
//   add_floats   c_b applied in f32, one f32 sum over all examples: no private release, see below
//
// Guarantee: the product of an example has the same bits in squares() and in add_integers(), for any
// neighbours and any place in the batch, and squares() is its squared norm in double: what is measured is
// what is added. So a contribution is bounded by measured norm x factor, plus the rounding to the grid,
// whatever was cancelled. Integer sums have the same bits in any order. An example that is not selected is
// skipped, never multiplied by 0.
//
// add_floats: the sum's rounding depends on the other examples, so it is no private release: it is the
// gradient of runs without privacy, and what measurements compare with.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/cuda/device.h"
#include "kernels/cuda/tensor_path.h"

namespace dpfa::kernels::cuda {

// Rows that are added to an example's product before anything else: the scattered rows of a tied embedding.
// ids and rows (U, columns) f32; example b's are [first[b], first[b + 1]), ids ascending and distinct within
// it. Device pointers.
struct ExtraRows {
  const int64_t* ids = nullptr;
  const float* rows = nullptr;
  const int64_t* first = nullptr;
};

// left (tokens, rows), right (tokens, columns): raw bits of bfloat16 on the device, aligned to 16 bytes,
// strides multiples of 8 numbers. The product (rows, columns), row-major, lies at `offset` of the flat
// parameter vector.
struct SegmentProduct {
  const uint16_t* left;
  int64_t left_stride, rows;
  const uint16_t* right;
  int64_t right_stride, columns;
  int64_t offset = 0;
  ExtraRows extra = {};
};

class SegmentGemmPlan {
 public:
  // offsets (B + 1): example b owns rows [offsets[b], offsets[b + 1]) of every operand; 2^30 rows at most.
  // The path is that of choose_path(); wgmma wants strides below 2^39 numbers. Throws InternalError for
  // shapes, strides and pointers that do not fit, Unsupported for a path that the device lacks. The paths
  // need not round alike: what is measured is what is added within one plan.
  SegmentGemmPlan(std::span<const SegmentProduct> products, std::span<const int64_t> offsets,
                  std::optional<TensorPath> path = std::nullopt);

  TensorPath path() const { return path_; }
  int64_t matrices() const { return matrices_; }
  int64_t examples() const { return examples_; }
  int64_t elements() const { return elements_; }  // of all matrices of an example

  // active, squares (matrices, B) on the device. squares is NaN where an example is not active, and where a
  // slot was not written; 0 for an example without tokens.
  void squares(const uint8_t* active, double* squares, cudaStream_t stream);
  // gradients (B, elements()) bfloat16 bits, one matrix behind another; only those of active examples with
  // tokens are written.
  void materialise(const uint8_t* active, uint16_t* gradients, double* squares, cudaStream_t stream);
  // scales (B): c_b / grid step, rounded down (clip.h); 0 where an example contributes nothing.
  void add_integers(const float* scales, int32_t* sum, cudaStream_t stream);
  // The same from materialised gradients, so that what was measured after rounding to bfloat16 is what is
  // added.
  void add_materialised(const float* scales, const uint16_t* gradients, int32_t* sum, cudaStream_t stream);
  void add_floats(const float* factors, float* sum, cudaStream_t stream);

 private:
  template <typename Finish>
  void launch(const uint8_t* active, const float* scales, const Finish& finish, cudaStream_t stream);
  void sum_slots(const uint8_t* active, double* squares, cudaStream_t stream);

  TensorPath path_;
  int64_t matrices_, examples_, tiles_ = 0, elements_ = 0;
  DeviceArray<SegmentProduct> products_;
  DeviceArray<int64_t> offsets_, first_tile_, first_element_;
  DeviceArray<uint8_t> maps_;  // of the wgmma path: tensor maps of each product
  DeviceArray<double> slots_;  // (tiles, examples, warps), example by example within a matrix
};

}  // namespace dpfa::kernels::cuda
