// A 3x3 convolution by Winograd's minimal filtering; the contract table is in
// kernels/winograd_conv.py.
#pragma once

#include <limits>

#include "revisage/array.h"

namespace revisage {

// What lies around the picture: nothing (the result is smaller by 2), zeros, or its mirror image.
enum class Surroundings { none, zeros, reflection };

// v -> min(v < 0 ? slope * v : v, ceiling): ReLU with slope 0, ReLU6 with ceiling 6 as well.
struct Activation {
  float slope = 1;
  float ceiling = std::numeric_limits<float>::infinity();
};

// out [N, D, H, W] (H - 2, W - 2 without surroundings), x [N, C, H, W], weight [D, C, 3, 3]; null
// or bias [D]; null or residual and skip, both as out. All f32, on the CPU. out overlaps no input.
//     out = skip + activation(convolution + bias + residual)
// Throws ShapeError, DeviceError, OptionError.
void winograd_conv(const Array& out, const Array& x, const Array& weight, const Array* bias,
                   const Array* residual, const Array* skip, Surroundings surroundings,
                   const Activation& activation, const Execution& execution);

}  // namespace revisage
