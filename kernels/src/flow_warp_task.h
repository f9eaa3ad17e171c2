// A checked call of the warp, as the CPU and CUDA versions receive it.
#pragma once

#include "flow_warp_arithmetic.h"
#include "revisage/flow_warp.h"

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

}  // namespace revisage
