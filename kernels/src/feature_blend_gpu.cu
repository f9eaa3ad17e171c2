// One thread per pixel and group of channels: the spatial mask is computed once per thread, the
// channel mask is the same for a whole warp.
#include "cuda_check.h"
#include "feature_blend_task.h"
#include "revisage/errors.h"

namespace revisage {
namespace {

constexpr int kThreads = 256;
constexpr int kChannelsPerThread = 8;

__device__ float softmax_first(float first, float second) {
  const float difference = first - second;
  const float decay = expf(-fabsf(difference));
  return (difference >= 0.0f ? 1.0f : decay) / (1.0f + decay);
}

__global__ void feature_blend_kernel(FeatureBlendTask task) {
  const std::int64_t first = blockIdx.y * static_cast<std::int64_t>(kChannelsPerThread);
  const std::int64_t left = task.channels - first;
  const int count = left < kChannelsPerThread ? static_cast<int>(left) : kChannelsPerThread;
  for (std::int64_t n = blockIdx.z; n < task.batch; n += gridDim.z) {
    const float* channel_logits = task.channel_logits + n * 2 * task.channels + first;
    const float* spatial_logits = task.spatial_logits + n * 2 * task.pixels;
    float channel[kChannelsPerThread];
    for (int k = 0; k < count; ++k) {
      channel[k] =
          task.strength * softmax_first(channel_logits[k], channel_logits[task.channels + k]);
    }
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
    for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x;
         i < task.pixels; i += step) {
      const float spatial = softmax_first(spatial_logits[i], spatial_logits[task.pixels + i]);
      for (int k = 0; k < count; ++k) {
        const std::int64_t at = (n * task.channels + first + k) * task.pixels + i;
        task.out[at] = spatial * channel[k] * task.style[at] +
                       (1.0f - spatial) * (1.0f - channel[k]) * task.image[at];
      }
    }
  }
}

}  // namespace

void feature_blend_cuda(const FeatureBlendTask& task, std::uintptr_t stream) {
  const CudaDeviceGuard guard(task.out);
  const std::int64_t groups = (task.channels + kChannelsPerThread - 1) / kChannelsPerThread;
  constexpr std::int64_t kMost = 65535;
  if (groups > kMost) {
    cuda_check(cudaErrorInvalidValue, "planning feature_blend (more than 524280 channels)");
  }
  const dim3 grid(grid_blocks(task.pixels, kThreads), static_cast<unsigned int>(groups),
                  static_cast<unsigned int>(task.batch < kMost ? task.batch : kMost));
  feature_blend_kernel<<<grid, kThreads, 0, to_stream(stream)>>>(task);
  cuda_check(cudaGetLastError(), "launching feature_blend");
}

void feature_blend_backward_cuda(const FeatureBlendBackwardTask&, std::uintptr_t) {
  throw DeviceError("feature_blend_backward runs on the CPU only; copy the arrays to the host");
}

}  // namespace revisage
