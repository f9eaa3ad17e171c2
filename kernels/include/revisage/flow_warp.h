// Backward bilinear sampling; the contract table and Note [Warp arithmetic] are in
// kernels/flow_warp.py.
#pragma once

#include "revisage/array.h"

namespace revisage {

enum class Padding { border, zero, reflect };

// image and out: [H, W], [N,] H, W, C (interleaved) or [N,] C, H, W (planar), of one dtype; they
// differ in H and W only. Exactly one of flow ([h, w, 2] or [N, h, w, 2] f32) and matrix is given.
// out overlaps no input. Throws ShapeError, OptionError, DeviceError.
void flow_warp(const Array& out, const Array& image, const Array* flow, const Affine* matrix,
               Padding padding, bool interleaved, const Execution& execution);

}  // namespace revisage
