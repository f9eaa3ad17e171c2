// Checked calls of the warp and of its backward, as the CPU and CUDA versions receive them.
#pragma once

#include "flow_warp_arithmetic.h"
#include "revisage/flow_warp.h"

namespace revisage {

// What the warp and its backward have in common.
struct FlowWarpGeometry {
  DType dtype;  // of image, and of out or its gradient
  std::int64_t batch, channels;
  std::int64_t height, width;  // of image
  std::int64_t rows, columns;  // of out
  bool interleaved;            // HWC; else CHW
  const float* flow;           // [flow_batch, flow_rows, flow_columns, 2], or null
  std::int64_t flow_batch, flow_rows, flow_columns;
  Padding padding;
};

struct FlowWarpTask : FlowWarpGeometry {
  void* out;
  const void* image;
  Affine matrix;  // used where flow is null
};

// Note [Warp gradients] in kernels/flow_warp.py. The flow is not null.
struct FlowWarpBackwardTask : FlowWarpGeometry {
  float* grad_image;  // as image, or null
  float* grad_flow;   // as flow, or null
  const void* grad;   // of out
  const void* image;
};

void flow_warp_cpu(const FlowWarpTask& task, int threads);
void flow_warp_cuda(const FlowWarpTask& task, std::uintptr_t stream);
void flow_warp_backward_cpu(const FlowWarpBackwardTask& task, int threads);
void flow_warp_backward_cuda(const FlowWarpBackwardTask& task, std::uintptr_t stream);

}  // namespace revisage
