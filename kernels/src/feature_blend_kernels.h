// The hot loops of the feature blend, compiled once per instruction set (feature_blend_<isa>.cc)
// and chosen at run time, as those of fft_conv (see fft_conv_kernels.h).
#pragma once

#include <stdint.h>

namespace revisage {

// A run of pixels of one channel. `stream`: write past the caches.
struct BlendRun {
  float* out;
  const float *style, *image;
  const float* spatial;  // Ms
  int64_t pixels;
  float channel;  // Mc
  bool stream;
};

struct BlendBackwardRun {
  float *grad_style, *grad_image;
  float* by_pixel;  // the sum over channels so far; this channel is added
  const float *grad, *style, *image;
  const float* spatial;
  int64_t pixels;
  float channel;
  bool stream;
};

struct FeatureBlendKernels {
  // Entry 0 of the softmax over two logits.
  void (*softmax_first)(const float* first, const float* second, float* out, int64_t count);
  // sums * the slope of softmax_first in its first logit, and minus that.
  void (*softmax_backward)(const float* first, const float* second, const float* sums,
                           float* grad_first, float* grad_second, int64_t count);
  void (*blend)(const BlendRun& run);
  // Returns the sum over the run's pixels; the same bits wherever the arrays lie.
  float (*blend_backward)(const BlendBackwardRun& run);
  // After runs with `stream`, before another thread reads what they wrote.
  void (*fence)();
};

const FeatureBlendKernels& feature_blend_kernels_baseline();
#ifdef REVISAGE_X86
const FeatureBlendKernels& feature_blend_kernels_avx2();
const FeatureBlendKernels& feature_blend_kernels_avx512();
#endif

}  // namespace revisage
