// The feature blend on the CPU. It moves memory and does little else, so what matters is the order
// in which memory is read.
#include <algorithm>

#include "cpu_isa.h"
#include "feature_blend_kernels.h"
#include "feature_blend_task.h"
#include "threads.h"
#include "workspace.h"

namespace revisage {
namespace {

// A thread takes a range of pixels, computes the spatial mask of the range once, and goes through
// the channels. Reading is fastest in long runs: wherever a run ends, the prefetchers start anew.
// The longest one leaves its mask in a second-level cache.
constexpr std::int64_t kLongestRun = 1 << 17;
constexpr std::int64_t kShortestRun = 1 << 10;
// The backward has two such buffers. Its sums over pixels are taken by blocks of a fixed size, so
// that no bit depends on how pixels were shared out.
constexpr std::int64_t kLongestBackwardRun = 1 << 16;
constexpr std::int64_t kPixelsPerSum = 1 << 13;
constexpr std::int64_t kLine = 16;  // floats of a cache line
// Results of a call that moves more than this have left the caches before anybody reads them.
constexpr std::int64_t kStreamedBytes = 24 << 20;

const FeatureBlendKernels& kernels() { return REVISAGE_CURRENT_KERNELS(feature_blend_kernels); }

std::int64_t blocks_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

// How the pixels of `batch` images are shared out: in ranges of `length` pixels, a multiple of
// `multiple`.
struct Ranges {
  std::int64_t length, per_image, count, pixels;

  Ranges(std::int64_t batch, std::int64_t pixels, std::int64_t multiple, std::int64_t longest,
         int threads)
      : pixels(pixels) {
    std::int64_t wanted = blocks_of(pixels, longest);
    if (batch % threads != 0) wanted = blocks_of(wanted, threads) * threads;  // as many for each
    length = blocks_of(blocks_of(pixels, wanted), multiple) * multiple;
    per_image = blocks_of(pixels, length);
    count = batch * per_image;
  }
  std::int64_t image(std::int64_t index) const { return index / per_image; }
  std::int64_t begin(std::int64_t index) const { return index % per_image * length; }
  std::int64_t size(std::int64_t index) const { return std::min(length, pixels - begin(index)); }
};

// Mc of all images and channels.
void channel_masks(const float* logits, std::int64_t batch, std::int64_t channels, float strength,
                   float* masks) {
  for (std::int64_t n = 0; n < batch; ++n, logits += 2 * channels, masks += channels) {
    kernels().softmax_first(logits, logits + channels, masks, channels);
    for (std::int64_t c = 0; c < channels; ++c) masks[c] *= strength;
  }
}

// Floats from the start of a cache line to `data`.
std::int64_t past_alignment(const float* data) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) / sizeof(float)) % kLine;
}

bool same_alignment(const float* a, const float* b) {
  return (reinterpret_cast<std::uintptr_t>(a) - reinterpret_cast<std::uintptr_t>(b)) % 64 == 0;
}

}  // namespace

void feature_blend_cpu(const FeatureBlendTask& task, int threads) {
  const FeatureBlendKernels& use = kernels();
  threads = resolve_threads(threads, task.batch * blocks_of(task.pixels, kShortestRun));
  const Ranges ranges(task.batch, task.pixels, kShortestRun, kLongestRun, threads);
  const bool in_place = task.out == task.style || task.out == task.image;
  const bool stream = !in_place && 12 * task.batch * task.channels * task.pixels > kStreamedBytes;
  thread_local Workspace workspace;
  float* spatial = workspace.get(
      static_cast<std::size_t>(threads * (ranges.length + kLine) + task.batch * task.channels));
  float* channel = spatial + threads * (ranges.length + kLine);
  channel_masks(task.channel_logits, task.batch, task.channels, task.strength, channel);
  parallel_for(ranges.count, threads, [&](std::int64_t index, int slot) {
    const std::int64_t n = ranges.image(index), begin = ranges.begin(index);
    const float* logits = task.spatial_logits + n * 2 * task.pixels + begin;
    BlendRun run;
    run.pixels = ranges.size(index);
    run.stream = stream;
    // Aligned as the features are: vectors that lie across two lines cost a tenth of the rate.
    float* mask = spatial + slot * (ranges.length + kLine) + past_alignment(task.out);
    run.spatial = mask;
    use.softmax_first(logits, logits + task.pixels, mask, run.pixels);
    for (std::int64_t c = n * task.channels; c < (n + 1) * task.channels; ++c) {
      const std::int64_t at = c * task.pixels + begin;
      run.out = task.out + at;
      run.style = task.style + at;
      run.image = task.image + at;
      run.channel = channel[c];
      use.blend(run);
    }
    use.fence();
  });
  workspace.trim();
}

void feature_blend_backward_cpu(const FeatureBlendBackwardTask& task, int threads) {
  const FeatureBlendKernels& use = kernels();
  threads = resolve_threads(threads, task.batch * blocks_of(task.pixels, kPixelsPerSum));
  const Ranges ranges(task.batch, task.pixels, kPixelsPerSum, kLongestBackwardRun, threads);
  const std::int64_t sums_per_plane = blocks_of(task.pixels, kPixelsPerSum);
  const std::int64_t planes = task.batch * task.channels;
  const bool stream = 20 * planes * task.pixels > kStreamedBytes &&
                      same_alignment(task.grad_style, task.grad_image);
  thread_local Workspace workspace;
  float* spatial = workspace.get(
      static_cast<std::size_t>(2 * threads * ranges.length + (1 + sums_per_plane) * planes));
  float* by_pixel = spatial + threads * ranges.length;
  float* channel = by_pixel + threads * ranges.length;
  float* sums = channel + planes;  // [planes, sums_per_plane]
  channel_masks(task.channel_logits, task.batch, task.channels, task.strength, channel);
  parallel_for(ranges.count, threads, [&](std::int64_t index, int slot) {
    const std::int64_t n = ranges.image(index), begin = ranges.begin(index);
    const std::int64_t size = ranges.size(index), pair = n * 2 * task.pixels + begin;
    const float* logits = task.spatial_logits + pair;
    float* mask = spatial + slot * ranges.length;
    float* sum = by_pixel + slot * ranges.length;
    use.softmax_first(logits, logits + task.pixels, mask, size);
    std::fill(sum, sum + size, 0.0f);
    for (std::int64_t c = n * task.channels; c < (n + 1) * task.channels; ++c) {
      for (std::int64_t offset = 0; offset < size; offset += kPixelsPerSum) {
        const std::int64_t at = c * task.pixels + begin + offset;
        BlendBackwardRun run;
        run.grad_style = task.grad_style + at;
        run.grad_image = task.grad_image + at;
        run.by_pixel = sum + offset;
        run.grad = task.grad + at;
        run.style = task.style + at;
        run.image = task.image + at;
        run.spatial = mask + offset;
        run.pixels = std::min(kPixelsPerSum, size - offset);
        run.channel = channel[c];
        run.stream = stream;
        sums[c * sums_per_plane + (begin + offset) / kPixelsPerSum] = use.blend_backward(run);
      }
    }
    float* grad = task.grad_spatial_logits + pair;
    use.softmax_backward(logits, logits + task.pixels, sum, grad, grad + task.pixels, size);
    use.fence();
  });
  for (std::int64_t c = 0; c < planes; ++c) {
    double sum = 0.0;
    for (std::int64_t block = 0; block < sums_per_plane; ++block) {
      sum += sums[c * sums_per_plane + block];
    }
    channel[c] = task.strength * static_cast<float>(sum);
  }
  for (std::int64_t n = 0; n < task.batch; ++n) {
    const float* logits = task.channel_logits + n * 2 * task.channels;
    float* grad = task.grad_channel_logits + n * 2 * task.channels;
    use.softmax_backward(logits, logits + task.channels, channel + n * task.channels, grad,
                         grad + task.channels, task.channels);
  }
  workspace.trim();
}

}  // namespace revisage
