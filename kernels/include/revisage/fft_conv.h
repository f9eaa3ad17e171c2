// LaMa's Fourier unit; the contract table is in kernels/fft_conv.py.
#pragma once

#include "revisage/array.h"

namespace revisage {

// out [N, D, H, W], x [N, C, H, W], weight [2D, 2C], scale and shift [2D], all f32. out overlaps no
// input. Throws ShapeError, DeviceError.
void fft_conv(const Array& out, const Array& x, const Array& weight, const Array& scale,
              const Array& shift, const Execution& execution);

}  // namespace revisage
