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

void feature_blend_cpu(const FeatureBlendTask& task, int threads);
void feature_blend_cuda(const FeatureBlendTask& task, std::uintptr_t stream);

}  // namespace revisage
