// StyleRetoucher's blend with its two softmaxes; the contract table is in kernels/feature_blend.py.
#pragma once

#include "revisage/array.h"

namespace revisage {

// out, style, image: [N, C, H, W] f32, on CUDA also f16 or bf16; spatial_logits [N, 2, H, W] and
// channel_logits [N, 2, C], both f32.
// out may be style or image itself; no other overlap. Throws ShapeError, OptionError, DeviceError.
void feature_blend(const Array& out, const Array& style, const Array& image,
                   const Array& spatial_logits, const Array& channel_logits, float strength,
                   const Execution& execution);

// The gradients of the above in its inputs, each of the shape and dtype of its input.
struct FeatureBlendGradients {
  Array style, image, spatial_logits, channel_logits;
};

// grad: [N, C, H, W], the gradient of out and of its dtype; the other inputs as above. The
// gradients overlap neither each other nor an input. Throws ShapeError, OptionError, DeviceError.
void feature_blend_backward(const FeatureBlendGradients& gradients, const Array& grad,
                            const Array& style, const Array& image, const Array& spatial_logits,
                            const Array& channel_logits, float strength,
                            const Execution& execution);

}  // namespace revisage
