// out = original + strength * mask * delta in the photo's own depth; the contract table and
// Note [Compositing arithmetic] are in kernels/composite.py.
#pragma once

#include "revisage/array.h"

namespace revisage {

// out, original: [H, W] or [H, W, C] of one dtype; delta [S, T, D] f32, D <= C; mask [S, T] f32.
// out may be original itself; no other overlap. Throws ShapeError, OptionError, DeviceError.
void composite(const Array& out, const Array& original, const Array& delta, const Array& mask,
               const Affine& matrix, float strength, const Execution& execution);

}  // namespace revisage
