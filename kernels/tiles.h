// The order in which tiles of per-example products are worked on and their results are added: shared by every
// backend, on the host and on the device. Index arithmetic alone; no dependency.
//
// Guarantee: what belongs to one example (its tiles, its slots, the order of its sum) depends on that
// example's own length and the tile size alone, not on its neighbours, the number of workers or the backend.
//
// Examples lie one behind another: example b owns the rows [offsets[b], offsets[b + 1]), offsets (B + 1)
// ascending. A record without a token is an empty segment: it has no tile, no slot and no depth step.
#pragma once

#include <cstdint>

#include "src/base/host_device.h"
#include "src/base/plant.h"

namespace dpfa::kernels {

DPFA_HOST_DEVICE constexpr int64_t tiles_of(int64_t length, int64_t tile) {
  return (length + tile - 1) / tile;
}

// ---- Symmetric products: pairs of tiles (row >= column) in the order (0,0) (1,0) (1,1) (2,0) ...

struct TilePair {
  int64_t row, column;
};

// Pairs of `tiles` tiles. tiles < 2^31.
DPFA_HOST_DEVICE constexpr int64_t triangle(int64_t tiles) { return tiles * (tiles + 1) / 2; }
DPFA_HOST_DEVICE constexpr int64_t pair_index(TilePair pair) { return triangle(pair.row) + pair.column; }
DPFA_HOST_DEVICE constexpr TilePair tile_pair(int64_t index) {
  int64_t row = 0;  // the largest with triangle(row) <= index, bit by bit: no rounding of a square root
  for (int64_t bit = int64_t{1} << 30; bit > 0; bit >>= 1)
    if (triangle(row | bit) <= index) row |= bit;
  return {row, index - triangle(row)};
}
// An entry (t, t') below the diagonal of tiles stands for (t', t) as well.
DPFA_HOST_DEVICE inline int pair_weight(TilePair pair) {
  return pair.row == pair.column || DPFA_PLANT("gram_pairs_counted_once") ? 1 : 2;
}

// ---- One list of the tasks of all matrices and examples: matrix by matrix, example by example, pair by
// pair. The slot of a task's partial result is its number, so an example's slots of one matrix are
// consecutive.

// first (B + 1): first[b] = tasks of the examples before b in one matrix; first[B] = tasks of one matrix.
constexpr void count_tasks(const int64_t* offsets, int64_t examples, int64_t tile, int64_t* first) {
  first[0] = 0;
  for (int64_t b = 0; b < examples; ++b)
    first[b + 1] = first[b] + triangle(tiles_of(offsets[b + 1] - offsets[b], tile));
}

struct TileTask {
  int64_t matrix, example;
  TilePair pair;
};

// task in [0, matrices x first[B]).
DPFA_HOST_DEVICE constexpr TileTask tile_task(const int64_t* first, int64_t examples, int64_t task) {
  const int64_t per_matrix = first[examples], local = task % per_matrix;
  int64_t low = 0, high = examples;  // first[low] <= local < first[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first[middle] <= local ? low : high) = middle;
  }
  return {task / per_matrix, low, tile_pair(local - first[low])};
}

// ---- The order in which partial results are added: kLanes sums, lane l over slots l, l + kLanes, ...
// ascending, then halves onto each other: lane l += lane l + 16, + 8, + 4, + 2, + 1. A warp does the same.

inline constexpr int kLanes = 32;

template <typename T>
DPFA_HOST_DEVICE constexpr double lane_sum(const T* values, int64_t count, int lane) {
  double sum = 0;
  for (int64_t i = lane; i < count; i += kLanes) sum += static_cast<double>(values[i]);
  return sum;
}

// lanes (kLanes) is overwritten.
template <typename Sum>
DPFA_HOST_DEVICE constexpr Sum fold_lanes(Sum* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

template <typename T>
constexpr double ordered_sum(const T* values, int64_t count) {
  double lanes[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane_sum(values, count, lane);
  return fold_lanes(lanes);
}

// ---- Products over the rows of examples (sum_b c_b G_b^T X_b): the depth loop, cut at example boundaries.

struct DepthStep {
  int64_t example;      // B after the last step
  int64_t begin, rows;  // 1 <= rows <= depth
  bool closes;          // the last step of its example: its sum is complete
};

DPFA_HOST_DEVICE constexpr DepthStep depth_step_from(const int64_t* offsets, int64_t examples, int64_t depth,
                                                     int64_t example, int64_t begin) {
  while (example < examples && begin >= offsets[example + 1]) ++example;
  if (example >= examples) return {examples, offsets[examples], 0, false};
  const int64_t left = offsets[example + 1] - begin;
  return {example, begin, left < depth ? left : depth, left <= depth};
}
DPFA_HOST_DEVICE constexpr DepthStep first_depth_step(const int64_t* offsets, int64_t examples,
                                                      int64_t depth) {
  return depth_step_from(offsets, examples, depth, 0, offsets[0]);
}
DPFA_HOST_DEVICE constexpr DepthStep next_depth_step(const int64_t* offsets, int64_t examples, int64_t depth,
                                                     const DepthStep& step) {
  return depth_step_from(offsets, examples, depth, step.example, step.begin + step.rows);
}

// ---- Tiles of an ordinary matrix, in bands of `band` tile rows walked column by column, so that neighbours
// in time share operands in the cache. index in [0, rows x columns).

DPFA_HOST_DEVICE constexpr TilePair banded_tile(int64_t index, int64_t rows, int64_t columns, int64_t band) {
  const int64_t first = index / (band * columns) * band;
  const int64_t height = rows - first < band ? rows - first : band;
  const int64_t local = index - first * columns;
  return {first + local % height, local / height};
}

}  // namespace dpfa::kernels
