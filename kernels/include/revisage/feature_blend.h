// StyleRetoucher's blend with its two softmaxes; the contract table is in kernels/feature_blend.py.
#pragma once

#include "revisage/array.h"

namespace revisage {

// out, style, image: [N, C, H, W] f32; spatial_logits [N, 2, H, W]; channel_logits [N, 2, C].
// out may be style or image itself; no other overlap. Throws ShapeError, OptionError, DeviceError.
void feature_blend(const Array& out, const Array& style, const Array& image,
                   const Array& spatial_logits, const Array& channel_logits, float strength,
                   const Execution& execution);

}  // namespace revisage
