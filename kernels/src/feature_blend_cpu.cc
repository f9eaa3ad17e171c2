#include <algorithm>
#include <cmath>
#include <vector>

#include "feature_blend_task.h"
#include "half.h"
#include "threads.h"

namespace revisage {
namespace {

// Pixels whose spatial mask is computed once and used for all channels; long enough for the
// hardware prefetchers, which stop at every page, to settle on each plane.
constexpr std::int64_t kPixelsPerTask = 8192;

// exp(x) for x <= 0, within 2e-7; plain arithmetic, so that the compiler vectorises the loops that
// call it. exp(x) = 2^n * exp(r) with |r| <= ln(2) / 2, and exp(r) by its Taylor series.
inline float exp_negative(float x) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the integer n
  x = x < -87.0f ? -87.0f : x;             // a NaN stays
  const float shifted = x * 1.44269504f + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
  float sum = 1.0f / 5040;
  for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    sum = sum * r + term;
  }
  return sum * bits_to_float((float_to_bits(shifted) + 127u) << 23);
}

// Entry 0 of a softmax over two logits, as a sigmoid that cannot overflow.
inline float softmax_first(float first, float second) {
  const float difference = first - second;
  const float decay = exp_negative(-std::fabs(difference));
  return (difference >= 0.0f ? 1.0f : decay) / (1.0f + decay);
}

// Its derivative in the first logit.
inline float softmax_slope(float first, float second) {
  const float decay = exp_negative(-std::fabs(first - second));
  return decay / ((1.0f + decay) * (1.0f + decay));
}

}  // namespace

void feature_blend_cpu(const FeatureBlendTask& task, int threads) {
  std::vector<float> channel_masks(static_cast<std::size_t>(task.batch * task.channels));
  for (std::int64_t n = 0; n < task.batch; ++n) {
    const float* logits = task.channel_logits + n * 2 * task.channels;
    for (std::int64_t c = 0; c < task.channels; ++c) {
      channel_masks[static_cast<std::size_t>(n * task.channels + c)] =
          task.strength * softmax_first(logits[c], logits[task.channels + c]);
    }
  }
  const std::int64_t blocks = (task.pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  const std::int64_t tasks = task.batch * blocks;
  parallel_for(tasks, resolve_threads(threads, tasks), [&](std::int64_t index, int) {
    const std::int64_t n = index / blocks, begin = index % blocks * kPixelsPerTask;
    const std::int64_t count = std::min(kPixelsPerTask, task.pixels - begin);
    const float* logits = task.spatial_logits + n * 2 * task.pixels + begin;
    float spatial[kPixelsPerTask];
    for (std::int64_t i = 0; i < count; ++i) {
      spatial[i] = softmax_first(logits[i], logits[task.pixels + i]);
    }
    for (std::int64_t c = 0; c < task.channels; ++c) {
      const float channel = channel_masks[static_cast<std::size_t>(n * task.channels + c)];
      const float rest = 1.0f - channel;
      const std::int64_t plane = (n * task.channels + c) * task.pixels + begin;
      const float* style = task.style + plane;
      const float* image = task.image + plane;
      float* out = task.out + plane;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i] = spatial[i] * channel * style[i] + (1.0f - spatial[i]) * rest * image[i];
      }
    }
  });
}

// Each task leaves the sums over its pixels in `partial`; they are added in the order of the
// blocks, whatever thread came first.
void feature_blend_backward_cpu(const FeatureBlendBackwardTask& task, int threads) {
  const std::int64_t blocks = (task.pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  const std::int64_t tasks = task.batch * blocks;
  std::vector<float> partial(static_cast<std::size_t>(tasks * task.channels));
  parallel_for(tasks, resolve_threads(threads, tasks), [&](std::int64_t index, int) {
    const std::int64_t n = index / blocks, begin = index % blocks * kPixelsPerTask;
    const std::int64_t count = std::min(kPixelsPerTask, task.pixels - begin);
    const float* logits = task.spatial_logits + n * 2 * task.pixels + begin;
    const float* channel_logits = task.channel_logits + n * 2 * task.channels;
    float spatial[kPixelsPerTask], by_pixel[kPixelsPerTask];
    for (std::int64_t i = 0; i < count; ++i) {
      spatial[i] = softmax_first(logits[i], logits[task.pixels + i]);
      by_pixel[i] = 0.0f;
    }
    for (std::int64_t c = 0; c < task.channels; ++c) {
      const float channel =
          task.strength * softmax_first(channel_logits[c], channel_logits[task.channels + c]);
      const float rest = 1.0f - channel;
      const std::int64_t plane = (n * task.channels + c) * task.pixels + begin;
      float sum = 0.0f;
      for (std::int64_t i = 0; i < count; ++i) {
        const float grad = task.grad[plane + i];
        const float style = task.style[plane + i], image = task.image[plane + i];
        const float from_style = grad * spatial[i], from_image = grad * (1.0f - spatial[i]);
        task.grad_style[plane + i] = from_style * channel;
        task.grad_image[plane + i] = from_image * rest;
        by_pixel[i] += grad * (channel * style - rest * image);
        sum += from_style * style - from_image * image;
      }
      partial[static_cast<std::size_t>(index * task.channels + c)] = sum;
    }
    float* out = task.grad_spatial_logits + n * 2 * task.pixels + begin;
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = by_pixel[i] * softmax_slope(logits[i], logits[task.pixels + i]);
      out[task.pixels + i] = -out[i];
    }
  });
  for (std::int64_t n = 0; n < task.batch; ++n) {
    const float* logits = task.channel_logits + n * 2 * task.channels;
    float* out = task.grad_channel_logits + n * 2 * task.channels;
    for (std::int64_t c = 0; c < task.channels; ++c) {
      double sum = 0.0;
      for (std::int64_t block = 0; block < blocks; ++block) {
        sum += partial[static_cast<std::size_t>((n * blocks + block) * task.channels + c)];
      }
      const float slope = task.strength * softmax_slope(logits[c], logits[task.channels + c]);
      out[c] = static_cast<float>(sum) * slope;
      out[task.channels + c] = -out[c];
    }
  }
}

}  // namespace revisage
