// Both kernels read and write 16 bytes of a plane at a time (one sample where planes are not
// aligned), and compute the spatial masks of these pixels once for a group of channels.
#include "cuda_check.h"
#include "cuda_launch.h"
#include "cuda_vectors.h"
#include "feature_blend_task.h"
#include "samples.h"

namespace revisage {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 16;              // channels of a block of the forward
constexpr int kTogether = 2;            // channels that a thread loads before it stores
constexpr int kLanes = 32, kWarps = 8;  // of a block of the backward
constexpr unsigned kAll = 0xFFFFFFFFu;

// Entry 0 of a softmax over two logits, as a sigmoid that cannot overflow, and its slope.
struct Softmax {
  __device__ Softmax(float first, float second) {
    const float difference = first - second;
    const float decay = expf(-fabsf(difference));
    const float inverse = 1.0f / (1.0f + decay);
    value = difference >= 0.0f ? inverse : decay * inverse;
    slope = decay * inverse * inverse;
  }

  float value, slope;
};

template <int kCount>
__device__ void load_logits(float* to, const float* from) {
  constexpr int kAtOnce = kCount < 4 ? kCount : 4;
#pragma unroll
  for (int i = 0; i < kCount; i += kAtOnce) {
    const auto some = load_cached<kAtOnce>(from + i);
    memcpy(to + i, &some, sizeof(some));
  }
}

// The spatial masks of kCount pixels from `at` on.
template <int kCount>
__device__ void load_masks(float* masks, const float* logits, std::int64_t pixels) {
  float second[kCount];
  load_logits<kCount>(masks, logits);
  load_logits<kCount>(second, logits + pixels);
#pragma unroll
  for (int i = 0; i < kCount; ++i) masks[i] = Softmax(masks[i], second[i]).value;
}

// A block: one group of channels, blockDim.x * kCount pixels. Groups of the same pixels are
// neighbours, so that the logits are read from the cache.
template <typename Sample, int kCount>
__global__ void __launch_bounds__(kThreads)
    feature_blend_kernel(const FeatureBlendTaskOf<Sample> task, unsigned groups, unsigned tiles) {
  using Traits = SampleTraits<Sample>;
  __shared__ float channel_masks[kGroup];
  const unsigned tile = blockIdx.x / groups % tiles;
  const std::int64_t n = blockIdx.x / groups / tiles;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x % groups) * kGroup;
  const int left = static_cast<int>(min(task.channels - first, std::int64_t{kGroup}));
  for (int c = static_cast<int>(threadIdx.x); c < left; c += static_cast<int>(blockDim.x)) {
    const float* logits = task.channel_logits + n * 2 * task.channels + first + c;
    channel_masks[c] = task.strength * Softmax(logits[0], logits[task.channels]).value;
  }
  __syncthreads();
  const std::int64_t at = (tile * static_cast<std::int64_t>(blockDim.x) + threadIdx.x) * kCount;
  if (at >= task.pixels) return;
  float masks[kCount];
  load_masks<kCount>(masks, task.spatial_logits + n * 2 * task.pixels + at, task.pixels);
  std::int64_t offset = (n * task.channels + first) * task.pixels + at;
  for (int c = 0; c < left; c += kTogether) {
    // All loads before the first store, which the compiler could not know: out may be an input.
    Samples<Sample, kCount> style[kTogether], image[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (c + k >= left) break;
      style[k] = load_once<kCount>(task.style + offset + k * task.pixels);
      image[k] = load_once<kCount>(task.image + offset + k * task.pixels);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (c + k >= left) break;
      const float channel = channel_masks[c + k], rest = 1.0f - channel;
      Samples<Sample, kCount> out;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const float s = Traits::load(style[k].sample[i]), f = Traits::load(image[k].sample[i]);
        out.sample[i] = Traits::store(masks[i] * channel * s + (1.0f - masks[i]) * rest * f);
      }
      store_once(task.out + offset + k * task.pixels, out);
    }
    offset += kTogether * task.pixels;
  }
}

// A block: kLanes * kCount pixels, `group` channels that its warps take in turns. A sum over
// pixels is made in the warp and added to the gradient, a sum over channels in the block; it is
// added too where several blocks have the same pixels.
template <typename Sample, int kCount>
__global__ void __launch_bounds__(kLanes* kWarps)
    feature_blend_backward_kernel(const FeatureBlendBackwardTaskOf<Sample> task, unsigned groups,
                                  unsigned tiles, std::int64_t group) {
  using Traits = SampleTraits<Sample>;
  constexpr int kPixels = kLanes * kCount;
  __shared__ float sums[kWarps][kPixels];
  const unsigned tile = blockIdx.x / groups % tiles;
  const std::int64_t n = blockIdx.x / groups / tiles;
  const std::int64_t first = blockIdx.x % groups * group;
  const std::int64_t end = min(first + group, task.channels);
  const std::int64_t begin = static_cast<std::int64_t>(tile) * kPixels;
  const std::int64_t at = begin + threadIdx.x * kCount;
  const bool exists = at < task.pixels;
  const float* spatial_logits = task.spatial_logits + n * 2 * task.pixels;
  float masks[kCount] = {}, by_pixel[kCount] = {};
  if (exists) load_masks<kCount>(masks, spatial_logits + at, task.pixels);
  for (std::int64_t c = first + threadIdx.y; c < end; c += kWarps) {
    const float* logits = task.channel_logits + n * 2 * task.channels + c;
    const Softmax softmax(logits[0], logits[task.channels]);
    const float channel = task.strength * softmax.value, rest = 1.0f - channel;
    const std::int64_t offset = (n * task.channels + c) * task.pixels + at;
    float by_channel = 0.0f;
    if (exists) {
      const auto grad = load_once<kCount>(task.grad + offset);
      const auto style = load_once<kCount>(task.style + offset);
      const auto image = load_once<kCount>(task.image + offset);
      Samples<Sample, kCount> grad_style, grad_image;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const float g = Traits::load(grad.sample[i]);
        const float s = g * Traits::load(style.sample[i]), f = g * Traits::load(image.sample[i]);
        by_pixel[i] += channel * s - rest * f;
        by_channel += masks[i] * s - (1.0f - masks[i]) * f;
        grad_style.sample[i] = Traits::store(g * masks[i] * channel);
        grad_image.sample[i] = Traits::store(g * (1.0f - masks[i]) * rest);
      }
      store_once(task.grad_style + offset, grad_style);
      store_once(task.grad_image + offset, grad_image);
    }
    for (int step = kLanes / 2; step > 0; step /= 2) {
      by_channel += __shfl_xor_sync(kAll, by_channel, step);
    }
    if (threadIdx.x == 0) {
      const float gradient = by_channel * task.strength * softmax.slope;
      float* to = task.grad_channel_logits + n * 2 * task.channels + c;
      atomicAdd(to, gradient);
      atomicAdd(to + task.channels, -gradient);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[threadIdx.y][threadIdx.x * kCount + i] = by_pixel[i];
  __syncthreads();
  const int pixel = static_cast<int>(threadIdx.y * kLanes + threadIdx.x);
  if (pixel >= kPixels || begin + pixel >= task.pixels) return;
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp][pixel];
  const float* logits = spatial_logits + begin + pixel;
  const float gradient = sum * Softmax(logits[0], logits[task.pixels]).slope;
  float* to = task.grad_spatial_logits + n * 2 * task.pixels + begin + pixel;
  if (groups == 1) {
    to[0] = gradient;
    to[task.pixels] = -gradient;
  } else {
    atomicAdd(to, gradient);
    atomicAdd(to + task.pixels, -gradient);
  }
}

// Whether all planes allow 16 bytes at a time.
bool are_wide(std::int64_t plane_bytes, std::initializer_list<const void*> arrays) {
  bool wide = plane_bytes % 16 == 0;
  for (const void* array : arrays) {
    wide = wide && reinterpret_cast<std::uintptr_t>(array) % 16 == 0;
  }
  return wide;
}

std::int64_t ceil_divide(std::int64_t count, std::int64_t by) { return (count + by - 1) / by; }

template <typename Sample, int kCount>
void launch_forward(const FeatureBlendTaskOf<Sample>& task, cudaStream_t stream) {
  const std::int64_t vectors = ceil_divide(task.pixels, kCount);
  const std::int64_t threads = min(std::int64_t{kThreads}, ceil_divide(vectors, kLanes) * kLanes);
  const std::int64_t tiles = ceil_divide(vectors, threads);
  const std::int64_t groups = ceil_divide(task.channels, kGroup);
  launch(feature_blend_kernel<Sample, kCount>, whole_grid(task.batch, tiles * groups, "style"),
         static_cast<unsigned>(threads), 0, stream, task, static_cast<unsigned>(groups),
         static_cast<unsigned>(tiles));
}

template <typename Sample, int kCount>
void launch_backward(const FeatureBlendBackwardTaskOf<Sample>& task, cudaStream_t stream) {
  // Small planes are cut into groups of channels too, until there are enough blocks for any GPU.
  constexpr std::int64_t kEnough = 1024;
  const std::int64_t tiles = ceil_divide(task.pixels, kLanes * kCount);
  const std::int64_t wanted = ceil_divide(kEnough, tiles * task.batch);
  const std::int64_t turns = ceil_divide(task.channels, kWarps);
  const std::int64_t group = ceil_divide(turns, min(wanted, turns)) * kWarps;
  const std::int64_t groups = ceil_divide(task.channels, group);
  const auto clear = [&](float* sums, std::int64_t count) {
    cuda_check(cudaMemsetAsync(sums, 0, static_cast<std::size_t>(count) * sizeof(float), stream),
               "clearing a gradient");
  };
  clear(task.grad_channel_logits, task.batch * 2 * task.channels);
  if (groups > 1) clear(task.grad_spatial_logits, task.batch * 2 * task.pixels);
  launch(feature_blend_backward_kernel<Sample, kCount>,
         whole_grid(task.batch, tiles * groups, "style"), dim3(kLanes, kWarps), 0, stream, task,
         static_cast<unsigned>(groups), static_cast<unsigned>(tiles), group);
}

}  // namespace

template <typename Sample>
void feature_blend_cuda(const FeatureBlendTaskOf<Sample>& task, std::uintptr_t stream) {
  const CudaDeviceGuard guard(task.out);
  constexpr int kWide = 16 / sizeof(Sample);
  const auto plane_bytes = task.pixels * static_cast<std::int64_t>(sizeof(Sample));
  if (are_wide(plane_bytes, {task.out, task.style, task.image, task.spatial_logits})) {
    launch_forward<Sample, kWide>(task, to_stream(stream));
  } else {
    launch_forward<Sample, 1>(task, to_stream(stream));
  }
  cuda_check(cudaGetLastError(), "launching feature_blend");
}

template <typename Sample>
void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<Sample>& task,
                                 std::uintptr_t stream) {
  const CudaDeviceGuard guard(task.grad);
  constexpr int kWide = 16 / sizeof(Sample);
  const auto plane_bytes = task.pixels * static_cast<std::int64_t>(sizeof(Sample));
  if (are_wide(plane_bytes, {task.grad_style, task.grad_image, task.grad, task.style, task.image,
                             task.spatial_logits})) {
    launch_backward<Sample, kWide>(task, to_stream(stream));
  } else {
    launch_backward<Sample, 1>(task, to_stream(stream));
  }
  cuda_check(cudaGetLastError(), "launching feature_blend_backward");
}

template void feature_blend_cuda(const FeatureBlendTaskOf<float>&, std::uintptr_t);
template void feature_blend_cuda(const FeatureBlendTaskOf<Half>&, std::uintptr_t);
template void feature_blend_cuda(const FeatureBlendTaskOf<BFloat16>&, std::uintptr_t);
template void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<float>&, std::uintptr_t);
template void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<Half>&, std::uintptr_t);
template void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<BFloat16>&,
                                          std::uintptr_t);

}  // namespace revisage
