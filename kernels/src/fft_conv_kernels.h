// The hot loops of the Fourier unit, compiled once per instruction set (fft_conv_<isa>.cc) and
// chosen at run time. The files that implement this interface include no standard C++ header, so
// that no inline function of the library is compiled with instructions a machine may lack.
//
// Note [Fourier layout]
//     Sixteen channels ride in the sixteen lanes of one vector, so every FFT butterfly is plain
//     vector arithmetic for any length, and no transform is ever split across lanes. The spectrum
//     of an image is [frequency][channel block][re 16, im 16] with frequency = kx * H + ky, so the
//     1x1 convolution is a matrix product whose rows are frequencies, and (re, im) of a channel
//     are never interleaved in memory: the packed weights carry the permutation instead. Lanes
//     past the last channel are zero.
#pragma once

#include <stdint.h>

namespace revisage {

constexpr int kLanes = 16;
constexpr int kMaxStages = 40;

// A forward complex FFT of one length: Stockham's self-sorting passes of radix 4, 2, 3, 5, and any
// other prime by its definition.
struct FftPlan {
  int length;
  int stages;
  int radix[kMaxStages];
  const float* twiddles[kMaxStages];  // per stage [length left / radix][radix - 1][re, im]
  const float* roots[kMaxStages];     // per stage [radix][cos, sin] of 2 pi j / radix
  int largest_radix;
};

struct FourierBlock {
  const FftPlan* across;  // length width
  const FftPlan* down;    // length height
  int64_t height, width;
  int64_t channels;         // in this block, 1..16
  int64_t spectrum_stride;  // floats from one frequency to the next
  float* scratch;           // fourier_scratch floats, 64-byte aligned
};

inline int64_t fourier_scratch(int64_t height, int64_t width, int64_t largest_radix) {
  const int64_t longer = height > width ? height : width;
  const int64_t complexes =
      (width / 2 + 1) * height + 2 * longer + 2 * largest_radix + 2 * (width / 2 + 1);
  return complexes * 2 * kLanes;
}

struct GemmBlock {
  const float* spectrum;         // [rows][depth]
  const float* weights;          // [column blocks][depth][gemm_columns]
  const float* scale;            // [columns]
  const float* shift;            // [columns]
  float* out;                    // [rows][columns]
  int64_t rows, depth, columns;  // columns: a multiple of 16
};

struct FourierKernels {
  // planes: [channels][height * width] -> spectrum of this block, not normalised, times 2.
  void (*forward)(const FourierBlock& block, const float* planes, float* spectrum);
  // spectrum of this block -> planes, times `factor`.
  void (*inverse)(const FourierBlock& block, const float* spectrum, float* planes, float factor);
  // out = relu(scale * spectrum weights^T + shift)
  void (*gemm)(const GemmBlock& block);
  int gemm_columns;  // width of a column block of the packed weights
};

const FourierKernels& fourier_kernels_baseline();
#ifdef REVISAGE_X86
const FourierKernels& fourier_kernels_avx2();
const FourierKernels& fourier_kernels_avx512();
#endif

}  // namespace revisage
