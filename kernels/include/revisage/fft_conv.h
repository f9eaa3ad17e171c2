// LaMa's Fourier unit; the contract table is in kernels/fft_conv.py.
#pragma once

#include <string>
#include <vector>

#include "revisage/array.h"

namespace revisage {

// out [N, D, H, W] and x [N, C, H, W] of one dtype, f32 or on CUDA f16 or bf16; weight [2D, 2C],
// scale and shift [2D], each f32 or as x. out overlaps no input. On CUDA, workspace is u8 of at
// least fft_conv_workspace_bytes and overlaps nothing; on the CPU it is not looked at. Throws
// ShapeError, DeviceError.
void fft_conv(const Array& out, const Array& x, const Array& weight, const Array& scale,
              const Array& shift, const Execution& execution, const Array* workspace = nullptr);

// Depends on the device of x; 0 on the CPU. Throws as fft_conv does.
std::size_t fft_conv_workspace_bytes(const Array& x, const Array& weight);

// Where to look first for libcufft.so, which planes need that are too large for shared memory. It
// is loaded once.
void set_cufft_candidates(const std::vector<std::string>& paths);

}  // namespace revisage
