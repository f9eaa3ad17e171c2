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

// The gradients of the above in image and flow, both f32; null is not computed. grad is that of out
// and of the dtype of image: f32, and on CUDA f16 or bf16. The gradients overlap neither each other
// nor an input. Throws ShapeError, OptionError, DeviceError.
void flow_warp_backward(const Array* grad_image, const Array* grad_flow, const Array& grad,
                        const Array& image, const Array& flow, Padding padding, bool interleaved,
                        const Execution& execution);

}  // namespace revisage
