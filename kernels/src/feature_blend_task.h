// A checked call of the feature blend, as the CPU and CUDA versions receive it.
#pragma once

#include "revisage/feature_blend.h"

namespace revisage {

struct FeatureBlendTask {
  float* out;
  const float *style, *image;            // [batch, channels, pixels]; either may be out
  const float* spatial_logits;           // [batch, 2, pixels]
  const float* channel_logits;           // [batch, 2, channels]
  std::int64_t batch, channels, pixels;  // pixels = H * W
  float strength;
};

// Note [Blend gradients] in kernels/feature_blend.py.
struct FeatureBlendBackwardTask {
  float *grad_style, *grad_image;        // [batch, channels, pixels]
  float* grad_spatial_logits;            // [batch, 2, pixels]
  float* grad_channel_logits;            // [batch, 2, channels]
  const float *grad, *style, *image;     // [batch, channels, pixels]
  const float* spatial_logits;           // [batch, 2, pixels]
  const float* channel_logits;           // [batch, 2, channels]
  std::int64_t batch, channels, pixels;  // pixels = H * W
  float strength;
};

void feature_blend_cpu(const FeatureBlendTask& task, int threads);
void feature_blend_cuda(const FeatureBlendTask& task, std::uintptr_t stream);
void feature_blend_backward_cpu(const FeatureBlendBackwardTask& task, int threads);
void feature_blend_backward_cuda(const FeatureBlendBackwardTask& task, std::uintptr_t stream);

}  // namespace revisage
