// What becomes of an example's product over tokens (segment_gemm.h), on either path. `close` sees it once,
// `end` comes after the last example.
#pragma once

#include <cuda.h>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/segment_tiles.cuh"
#include "src/base/plant.h"

namespace dpfa::kernels::cuda {

struct Squares {
  static constexpr bool kOneSum = false;  // the accumulators start anew with every example
  double* slots;
  __device__ __forceinline__ void begin(int32_t*) const {}
  template <class Layout>
  __device__ __forceinline__ void close(const SegmentTables& t, const ProductTask& task, int64_t example,
                                        typename Layout::Sums& sum, int32_t*) const {
    double squares = 0;
    for_each_entry<Layout>(task, [&](int number, int64_t, int64_t) {
      const double v = Layout::at(sum, number);
      squares = fma(v, v, squares);
    });
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) *task.slot(t, slots, example) = squares;
  }
  template <class Layout>
  __device__ __forceinline__ void end(const ProductTask&, typename Layout::Sums&, const int32_t*) const {}
};

struct Materialise {
  static constexpr bool kOneSum = false;
  double* slots;
  uint16_t* gradients;  // (examples, elements)
  int64_t elements;
  const int64_t* first_element;  // (matrices)
  __device__ __forceinline__ void begin(int32_t*) const {}
  template <class Layout>
  __device__ __forceinline__ void close(const SegmentTables& t, const ProductTask& task, int64_t example,
                                        typename Layout::Sums& sum, int32_t*) const {
    uint16_t* gradient = gradients + example * elements + first_element[task.matrix];
    double squares = 0;
    for_each_entry<Layout>(task, [&](int number, int64_t row, int64_t column) {
      const uint16_t bits = to_bfloat16(Layout::at(sum, number));
      gradient[row * task.product->columns + column] = bits;
      const double v = DPFA_PLANT("measured_before_rounding")
                           ? Layout::at(sum, number)
                           : __uint_as_float(static_cast<uint32_t>(bits) << 16);
      squares = fma(v, v, squares);
    });
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) *task.slot(t, slots, example) = squares;
  }
  template <class Layout>
  __device__ __forceinline__ void end(const ProductTask&, typename Layout::Sums&, const int32_t*) const {}
};

// The integers of all examples are added up in shared memory, every thread its own.
struct AddIntegers {
  static constexpr bool kOneSum = false;
  int32_t* sum_out;
  __device__ __forceinline__ void begin(int32_t* parked) const {
#pragma unroll
    for (int i = 0; i < 4 * kFragments * kFragments; ++i) parked[i * kThreads] = 0;
  }
  template <class Layout>
  __device__ __forceinline__ void close(const SegmentTables& t, const ProductTask& task, int64_t example,
                                        typename Layout::Sums& sum, int32_t* parked) const {
    const float scale = t.scales[example];
    for_each_entry<Layout>(task, [&](int number, int64_t, int64_t) {
      parked[number * kThreads] += scaled_integer(scale, Layout::at(sum, number));
    });
  }
  template <class Layout>
  __device__ __forceinline__ void end(const ProductTask& task, typename Layout::Sums&,
                                      const int32_t* parked) const {
    for_each_entry<Layout>(task, [&](int number, int64_t row, int64_t column) {
      sum_out[task.product->offset + row * task.product->columns + column] += parked[number * kThreads];
    });
  }
};

struct AddFloats {
  static constexpr bool kOneSum = true;
  float* sum_out;
  __device__ __forceinline__ void begin(int32_t*) const {}
  template <class Layout>
  __device__ __forceinline__ void close(const SegmentTables&, const ProductTask&, int64_t,
                                        typename Layout::Sums&, int32_t*) const {}
  template <class Layout>
  __device__ __forceinline__ void end(const ProductTask& task, typename Layout::Sums& sum,
                                      const int32_t*) const {
    for_each_entry<Layout>(task, [&](int number, int64_t row, int64_t column) {
      float& out = sum_out[task.product->offset + row * task.product->columns + column];
      out = __fadd_rn(out, Layout::at(sum, number));
    });
  }
};

// segment_gemm_sm90.cu
struct SegmentMaps {
  CUtensorMap left, right;
};
SegmentMaps segment_maps(const SegmentProduct& product, int64_t rows);
template <typename Finish>
void launch_segment_wgmma(const SegmentTables& tables, const SegmentMaps* maps, const Finish& finish,
                          int64_t blocks, cudaStream_t stream);

}  // namespace dpfa::kernels::cuda
