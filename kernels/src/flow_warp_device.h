// Where an output pixel of the warp lies in the image, for the forward and backward kernels
// (Note [Warp arithmetic] in kernels/flow_warp.py). Positions are 32 bits wide: sides are below
// 2^24, flows are clamped to 2^30.
#pragma once

#include <cuda_runtime.h>

#include "flow_warp_task.h"

namespace revisage {

// A pixel of the image, or of a smaller flow, and the fractions to its right and lower neighbours.
struct Place {
  int column, row;
  float fx, fy;
};

__device__ inline float2 load_step(const float* flow, std::int64_t pixel, bool aligned) {
  if (aligned) return __ldg(reinterpret_cast<const float2*>(flow) + pixel);
  return make_float2(__ldg(flow + 2 * pixel), __ldg(flow + 2 * pixel + 1));
}

REVISAGE_HOST_DEVICE inline bool is_upsampled(const FlowWarpGeometry& task) {
  return task.flow_rows != task.rows || task.flow_columns != task.columns;
}

// Flow row (or column) `whole` and the next one that exists.
__device__ inline int next_in_flow(int whole, std::int64_t size) {
  return whole + 1 < static_cast<int>(size) ? whole + 1 : whole;
}

// A flow of lower resolution (Note [Flow upsampling]) at the output pixel that is `at` in it.
__device__ inline float2 upsampled_step(const FlowWarpGeometry& task, const float* flow, Place at,
                                        bool aligned) {
  const int right = next_in_flow(at.column, task.flow_columns);
  const std::int64_t top = at.row * task.flow_columns;
  const std::int64_t bottom = next_in_flow(at.row, task.flow_rows) * task.flow_columns;
  const float2 a = load_step(flow, top + at.column, aligned);
  const float2 b = load_step(flow, top + right, aligned);
  const float2 c = load_step(flow, bottom + at.column, aligned);
  const float2 d = load_step(flow, bottom + right, aligned);
  const float gx = at.fx, hx = 1.0f - gx, gy = at.fy, hy = 1.0f - gy;
  return make_float2((a.x * hx + b.x * gx) * hy + (c.x * hx + d.x * gx) * gy,
                     (a.y * hx + b.y * gx) * hy + (c.y * hx + d.y * gx) * gy);
}

// The position of output pixel (x, y), given relative to `from`.
template <typename Real>
__device__ inline Place to_place(Real across, Real down, int x, int y) {
  const SplitPosition u = split_position(across), v = split_position(down);
  return {static_cast<int>(u.whole) + x, static_cast<int>(v.whole) + y, u.fraction, v.fraction};
}

// Whether all four taps lie in the image, so that padding does not matter.
__device__ inline bool is_interior(const FlowWarpGeometry& task, const Place& place) {
  return static_cast<unsigned>(place.column) < static_cast<unsigned>(task.width - 1) &&
         static_cast<unsigned>(place.row) < static_cast<unsigned>(task.height - 1);
}

// Tap t of a place (t & 1: right, t >> 1: below), padded; `inside` is false where it reads as 0.
struct PaddedTap {
  __device__ PaddedTap(const FlowWarpGeometry& task, const Place& place, int t) {
    const int height = static_cast<int>(task.height), width = static_cast<int>(task.width);
    const bool reflect = task.padding == Padding::reflect;
    const int c = place.column + (t & 1), r = place.row + (t >> 1);
    column = fold_index(c, width, reflect);
    row = fold_index(r, height, reflect);
    inside = task.padding != Padding::zero || (c == column && r == row);
  }

  int column, row;
  bool inside;
};

}  // namespace revisage
