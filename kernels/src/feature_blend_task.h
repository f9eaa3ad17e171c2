// Checked calls of the feature blend and of its backward, as the CPU and CUDA versions receive
// them.
#pragma once

#include "half.h"
#include "revisage/feature_blend.h"

namespace revisage {

// Sample: float; on CUDA also Half and BFloat16.
template <typename Sample>
struct FeatureBlendTaskOf {
  Sample* out;
  const Sample *style, *image;           // [batch, channels, pixels]; either may be out
  const float* spatial_logits;           // [batch, 2, pixels]
  const float* channel_logits;           // [batch, 2, channels]
  std::int64_t batch, channels, pixels;  // pixels = H * W
  float strength;
};
using FeatureBlendTask = FeatureBlendTaskOf<float>;

// Note [Blend gradients] in kernels/feature_blend.py.
template <typename Sample>
struct FeatureBlendBackwardTaskOf {
  Sample *grad_style, *grad_image;       // [batch, channels, pixels]
  float* grad_spatial_logits;            // [batch, 2, pixels]
  float* grad_channel_logits;            // [batch, 2, channels]
  const Sample *grad, *style, *image;    // [batch, channels, pixels]
  const float* spatial_logits;           // [batch, 2, pixels]
  const float* channel_logits;           // [batch, 2, channels]
  std::int64_t batch, channels, pixels;  // pixels = H * W
  float strength;
};
using FeatureBlendBackwardTask = FeatureBlendBackwardTaskOf<float>;

void feature_blend_cpu(const FeatureBlendTask& task, int threads);
void feature_blend_backward_cpu(const FeatureBlendBackwardTask& task, int threads);
// For float, Half and BFloat16.
template <typename Sample>
void feature_blend_cuda(const FeatureBlendTaskOf<Sample>& task, std::uintptr_t stream);
template <typename Sample>
void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<Sample>& task,
                                 std::uintptr_t stream);

}  // namespace revisage
