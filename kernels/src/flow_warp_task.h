// A checked call of the warp, as the CPU and CUDA versions receive it, and the index arithmetic
// that they share (Note [Warp arithmetic] in kernels/flow_warp.py).
#pragma once

#include "revisage/flow_warp.h"
#include "samples.h"

namespace revisage {

struct FlowWarpTask {
  void* out;
  const void* image;
  DType dtype;
  std::int64_t batch, channels;
  std::int64_t height, width;  // of image
  std::int64_t rows, columns;  // of out
  bool interleaved;            // HWC; else CHW
  const float* flow;           // [flow_batch, flow_rows, flow_columns, 2], or null
  std::int64_t flow_batch, flow_rows, flow_columns;
  Affine matrix;  // used where flow is null
  Padding padding;
};

void flow_warp_cpu(const FlowWarpTask& task, int threads);
void flow_warp_cuda(const FlowWarpTask& task, std::uintptr_t stream);

struct SplitPosition {
  std::int64_t whole;
  float fraction;
};

// Whole part and fraction of a position, clamped to +-2^30; NaN counts as -2^30.
template <typename Real>
REVISAGE_HOST_DEVICE inline SplitPosition split_position(Real position) {
  constexpr Real far = 1073741824;
  Real clamped = position > -far ? position : -far;
  clamped = clamped < far ? clamped : far;
  auto whole = static_cast<std::int32_t>(clamped);
  whole -= static_cast<Real>(whole) > clamped;  // truncation to floor
  return {whole, static_cast<float>(clamped - static_cast<Real>(whole))};
}

// An index brought into 0..size-1; for Padding::zero the caller masks what was outside.
REVISAGE_HOST_DEVICE inline std::int64_t fold_index(std::int64_t index, std::int64_t size,
                                                    Padding padding) {
  if (padding != Padding::reflect || size == 1) {
    return index < 0 ? 0 : (index >= size ? size - 1 : index);
  }
  const std::int64_t period = 2 * (size - 1);
  std::int64_t folded = index % period;
  if (folded < 0) folded += period;
  return folded < period - folded ? folded : period - folded;
}

REVISAGE_HOST_DEVICE inline float mix(float first, float second, float fraction) {
  return fraction == 0.0f ? first : first * (1.0f - fraction) + second * fraction;
}

// Position `index` of `count` in a flow of `size`, with half-pixel centres (Note [Flow
// upsampling]).
REVISAGE_HOST_DEVICE inline SplitPosition upsampled_position(std::int64_t index, std::int64_t count,
                                                             std::int64_t size) {
  double at =
      (static_cast<double>(index) + 0.5) * static_cast<double>(size) / static_cast<double>(count) -
      0.5;
  const double last = static_cast<double>(size - 1);
  at = at < 0.0 ? 0.0 : (at > last ? last : at);
  return split_position(at);
}

}  // namespace revisage
