// Compiled with -fmad=false: Note [Compositing arithmetic] in kernels/composite.py allows no fused
// multiply-add. One thread per photo pixel of the square's box.
#include "composite_task.h"
#include "cuda_check.h"
#include "dispatch.h"

namespace revisage {
namespace {

struct Taps {
  std::int64_t offset[4];  // in square pixels
  bool inside[4];
  float fx, fy;

  // Bilinear sample of channel `channel` of `channels`.
  __device__ float sample(const float* square, std::int64_t channels, std::int64_t channel) const {
    float value[4];
    for (int t = 0; t < 4; ++t) {
      value[t] = inside[t] ? __ldg(square + offset[t] * channels + channel) : 0.0f;
    }
    const float gx = 1.0f - fx;
    const float upper = value[0] * gx + value[1] * fx;
    const float lower = value[2] * gx + value[3] * fx;
    return upper * (1.0f - fy) + lower * fy;
  }
};

template <typename Sample>
__global__ void composite_kernel(CompositeTask task) {
  const std::int64_t x = task.x0 + blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  if (x >= task.x1) return;
  const Affine& m = task.matrix;
  for (std::int64_t y = task.y0 + blockIdx.y; y < task.y1; y += gridDim.y) {
    const double u = m.a * static_cast<double>(x) + (m.b * static_cast<double>(y) + m.c);
    const double v = m.d * static_cast<double>(x) + (m.e * static_cast<double>(y) + m.f);
    if (!(u > -1.0 && u < static_cast<double>(task.columns) && v > -1.0 &&
          v < static_cast<double>(task.rows))) {
      continue;
    }
    const auto column = static_cast<std::int64_t>(floor(u));
    const auto row = static_cast<std::int64_t>(floor(v));
    Taps taps;
    taps.fx = static_cast<float>(u - static_cast<double>(column));
    taps.fy = static_cast<float>(v - static_cast<double>(row));
    for (int t = 0; t < 4; ++t) {
      const std::int64_t c = column + (t & 1), r = row + (t >> 1);
      taps.inside[t] = c >= 0 && c < task.columns && r >= 0 && r < task.rows;
      taps.offset[t] = r * task.columns + c;
    }
    const float mask = taps.sample(task.mask, 1, 0);
    if (mask == 0.0f) continue;
    const std::int64_t pixel = (y * task.width + x) * task.channels;
    const Sample* before = static_cast<const Sample*>(task.original) + pixel;
    Sample* after = static_cast<Sample*>(task.out) + pixel;
    for (std::int64_t k = 0; k < task.delta_channels; ++k) {
      const float change = task.strength * (mask * taps.sample(task.delta, task.delta_channels, k));
      apply_change(before[k], after[k], change);
    }
  }
}

}  // namespace

void composite_cuda(const CompositeTask& task, std::uintptr_t stream_address) {
  const CudaDeviceGuard guard(task.out);
  cudaStream_t stream = to_stream(stream_address);
  if (task.out != task.original) {
    const auto samples = static_cast<std::size_t>(task.height * task.width * task.channels);
    cuda_check(cudaMemcpyAsync(task.out, task.original, samples * sample_bytes(task.dtype),
                               cudaMemcpyDeviceToDevice, stream),
               "copying the original");
  }
  if (task.x0 >= task.x1 || task.y0 >= task.y1 || task.strength == 0.0f) return;
  constexpr int kThreads = 128;
  const std::int64_t rows = task.y1 - task.y0;
  const dim3 grid(grid_blocks(task.x1 - task.x0, kThreads),
                  static_cast<unsigned int>(rows < 65535 ? rows : 65535));
  dispatch_sample(task.dtype, [&](auto sample) {
    composite_kernel<decltype(sample)><<<grid, kThreads, 0, stream>>>(task);
  });
  cuda_check(cudaGetLastError(), "launching composite");
}

}  // namespace revisage
