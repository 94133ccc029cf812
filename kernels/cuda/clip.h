// From squared norms to what a contribution is multiplied by.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/error_bound.h"

namespace dpfa::kernels::cuda {

// Completes the Gram norms of a tied token table's head: results and certified (B), those of its unit, become
// those of the whole table (tied_result). rows, columns: of the table; offsets (B + 1) on the device. |E|^2,
// <E, z^T h> and magnitudes (B) as token_row_squares and CrossTermPlan leave them.
struct TiedRows {
  const double *squares, *terms, *magnitudes;
};
void join_tied_rows(const int64_t* offsets, int64_t examples, int64_t rows, int64_t columns,
                    const TiedRows& tied, GramResult* results, uint8_t* certified, cudaStream_t stream);

// Per matrix and example, which norms have to be measured directly: active (matrices, B) = 1 where a unit of
// the matrix is not certified, or the matrix has no unit, and the example is selected. unit_matrix (units)
// names the matrix of each unit.
void choose_direct(const uint8_t* certified, const int64_t* unit_matrix, int64_t units, int64_t matrices,
                   const uint8_t* selected, int64_t examples, uint8_t* active, cudaStream_t stream);

// squares (B) := the sum over matrices: the direct squared norm where active, the upper Gram norm of its
// units elsewhere.
void matrix_squares(const GramResult* results, const int64_t* unit_matrix, int64_t units,
                    const double* direct, const uint8_t* active, int64_t matrices, int64_t examples,
                    double* squares, cudaStream_t stream);

// squares (B) := the sum over the rows of parts (count, B), one for each part of a norm, in their order. Rows
// are NaN before their kernels write them (unwritten_byte), so an example with a part that none measured has
// factor 0.
void sum_parts(const double* parts, int64_t count, int64_t examples, double* squares, cudaStream_t stream);

// factors (B): factor_of the total where selected, 0 elsewhere. scales (B): factor / 2^grid_exponent, rounded
// down to f32; what a contribution is multiplied by before it is rounded to an integer.
void clip_scales(const double* squares, const uint8_t* selected, int64_t examples, Clipping clip,
                 int grid_exponent, double* factors, float* scales, cudaStream_t stream);

}  // namespace dpfa::kernels::cuda
