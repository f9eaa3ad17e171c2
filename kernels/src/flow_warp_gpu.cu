// Compiled with -fmad=false: Note [Warp arithmetic] in kernels/flow_warp.py allows no fused
// multiply-add. One thread per output pixel; layouts differ in two strides only.
#include "cuda_check.h"
#include "dispatch.h"
#include "flow_warp_task.h"
#include "revisage/errors.h"

namespace revisage {
namespace {

constexpr int kThreads = 128;

// The flow at output pixel (x, y), upsampled where its resolution is lower.
__device__ float2 flow_at(const FlowWarpTask& task, const float* flow, std::int64_t x,
                          std::int64_t y) {
  // Two loads, because nothing promises that a vector of the flow is aligned to its 8 bytes.
  const auto vector = [flow](std::int64_t i) { return make_float2(flow[2 * i], flow[2 * i + 1]); };
  if (task.flow_rows == task.rows && task.flow_columns == task.columns) {
    return vector(y * task.columns + x);
  }
  const SplitPosition across = upsampled_position(x, task.columns, task.flow_columns);
  const SplitPosition down = upsampled_position(y, task.rows, task.flow_rows);
  const std::int64_t right =
      across.whole + 1 < task.flow_columns ? across.whole + 1 : task.flow_columns - 1;
  const std::int64_t below = down.whole + 1 < task.flow_rows ? down.whole + 1 : task.flow_rows - 1;
  const float2 a = vector(down.whole * task.flow_columns + across.whole);
  const float2 b = vector(down.whole * task.flow_columns + right);
  const float2 c = vector(below * task.flow_columns + across.whole);
  const float2 d = vector(below * task.flow_columns + right);
  const float gx = across.fraction, hx = 1.0f - gx, gy = down.fraction, hy = 1.0f - gy;
  return make_float2((a.x * hx + b.x * gx) * hy + (c.x * hx + d.x * gx) * gy,
                     (a.y * hx + b.y * gx) * hy + (c.y * hx + d.y * gx) * gy);
}

template <typename Sample>
__global__ void flow_warp_kernel(FlowWarpTask task) {
  const std::int64_t image_pixels = task.height * task.width, out_pixels = task.rows * task.columns;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t pixel_stride = task.interleaved ? task.channels : 1;
  const std::int64_t plane_stride = task.interleaved ? 1 : image_pixels;
  const std::int64_t out_plane_stride = task.interleaved ? 1 : out_pixels;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x;
       i < task.batch * out_pixels; i += step) {
    const std::int64_t n = i / out_pixels, pixel = i % out_pixels;
    const std::int64_t y = pixel / task.columns, x = pixel % task.columns;
    SplitPosition across, down;
    if (task.flow != nullptr) {
      const std::int64_t size = task.flow_rows * task.flow_columns * 2;
      const float2 shift = flow_at(task, task.flow + (task.flow_batch > 1 ? n * size : 0), x, y);
      across = split_position(shift.x);
      down = split_position(shift.y);
      across.whole += x;
      down.whole += y;
    } else {
      const Affine& m = task.matrix;
      const auto px = static_cast<double>(x), py = static_cast<double>(y);
      across = split_position(m.a * px + (m.b * py + m.c));
      down = split_position(m.d * px + (m.e * py + m.f));
    }
    const Sample* taps[4];
    bool inside[4];
    const bool reflect = task.padding == Padding::reflect;
    const Sample* image = static_cast<const Sample*>(task.image) + n * image_pixels * task.channels;
    for (int t = 0; t < 4; ++t) {
      const std::int64_t column = across.whole + (t & 1), row = down.whole + (t >> 1);
      inside[t] = task.padding != Padding::zero ||
                  (column >= 0 && column < task.width && row >= 0 && row < task.height);
      taps[t] = image + (fold_index(row, task.height, reflect) * task.width +
                         fold_index(column, task.width, reflect)) *
                            pixel_stride;
    }
    Sample* out =
        static_cast<Sample*>(task.out) + n * out_pixels * task.channels + pixel * pixel_stride;
    const TapMixer<Sample> mixer(across.fraction, down.fraction);
    for (std::int64_t c = 0; c < task.channels; ++c) {
      Sample value[4];
      for (int t = 0; t < 4; ++t) value[t] = inside[t] ? taps[t][c * plane_stride] : Sample{};
      out[c * out_plane_stride] = mixer(value[0], value[1], value[2], value[3]);
    }
  }
}

}  // namespace

void flow_warp_cuda(const FlowWarpTask& task, std::uintptr_t stream) {
  const CudaDeviceGuard guard(task.out);
  const unsigned int blocks = grid_blocks(task.batch * task.rows * task.columns, kThreads);
  dispatch_sample(task.dtype, [&](auto sample) {
    flow_warp_kernel<decltype(sample)><<<blocks, kThreads, 0, to_stream(stream)>>>(task);
  });
  cuda_check(cudaGetLastError(), "launching flow_warp");
}

void flow_warp_backward_cuda(const FlowWarpBackwardTask&, std::uintptr_t) {
  throw DeviceError("flow_warp_backward runs on the CPU only; copy the arrays to the host");
}

}  // namespace revisage
