// The hot loops of the Fourier unit, compiled once per instruction set (fft_conv_<isa>.cc) and
// chosen at run time. The files that implement this interface include no standard C++ header, so
// that no inline function of the library is compiled with instructions a machine may lack.
//
// Note [Fourier layout]
//     As many channels as a vector has lanes ride together (a channel block), so every FFT
//     butterfly is plain vector arithmetic for any length, and no transform is ever split across
//     lanes. The half spectrum of an image is
//         [kx][channel block][ky][re of the lanes, im of the lanes]
//     so one column kx of one block is contiguous, and so is what a tile of the matrix product
//     reads and writes. (re, im) of a channel are never interleaved in memory: the packed weights
//     carry that permutation. Lanes past the last channel are zero.
//
//     Three steps, each of them independent tasks: `forward_rows` transforms rows and fills the
//     half spectrum; `mix_column` takes one column kx through the FFT over y, the 1x1 convolution
//     of all channels and the inverse FFT over y, inside the L2 cache; `inverse_rows` makes the
//     planes.
//
// Note [Inverse by reversal]
//     sum_k Y[k] exp(+2 pi i k n / N) is the forward transform of Y read backwards (Y[-k mod N]),
//     or the forward transform of Y with its result read backwards. So there is one FFT, no sign to
//     choose and no extra pass: `inverse_rows` fills its line backwards, and after `mix_column` row
//     y of the half spectrum lies at index -y mod H.
#pragma once

#include <stdint.h>

namespace revisage {

constexpr int kMaxStages = 40;

// A forward complex FFT of one length, as Stockham's self-sorting passes: radix 8, 4, 2, small odd
// primes, and any other prime by its definition.
struct FftPlan {
  int length;
  int stages;
  int radix[kMaxStages];
  const float* twiddles[kMaxStages];  // per stage [length left / radix][radix - 1][re, im]
  const float* roots[kMaxStages];     // per stage [radix][cos, sin] of 2 pi j / radix
  int largest_radix;
};

// Rows of one channel block of one image.
struct RowBlock {
  const FftPlan* across;  // length width
  int64_t height, width;
  int64_t channels;       // in this block, 1 to the number of lanes
  float* spectrum;        // [kx][ky][2 * lanes] of this block
  int64_t column_stride;  // floats from one kx to the next
  float* scratch;         // row_scratch() floats, aligned to a cache line
};

// One column kx of the half spectrum of one image, all channel blocks.
struct Column {
  const FftPlan* down;  // length height
  int64_t height;
  bool own_conjugate;  // kx is 0 or width / 2: entry -ky is the conjugate of entry ky
  int64_t in_blocks, out_blocks;
  float* spectrum;       // [in_blocks][ky][2 * lanes] in, [out_blocks][-y mod H][2 * lanes] out
  const float* weights;  // see pack_weights
  const float* shift;    // [out_blocks][2 * lanes]
  float factor;          // out = relu(factor * weights * in + shift)
  float* scratch;        // column_scratch() floats, aligned to a cache line
};

struct FourierKernels {
  int lanes;

  // Rows [first, last) of planes [channels][height * width] -> half spectrum, before the FFT over
  // y, not normalised, times 2. `first` is even; so is `last`, unless it is the height.
  void (*forward_rows)(const RowBlock& block, const float* planes, int64_t first, int64_t last);

  void (*mix_column)(const Column& column);

  // Entries [first, last) of the y axis of the half spectrum, after mix_column -> their rows of
  // planes. Bounds as for forward_rows.
  void (*inverse_rows)(const RowBlock& block, float* planes, int64_t first, int64_t last);

  // weight [2 * out_channels][2 * in_channels], (re, im) interleaved on both axes, times scale
  // [2 * out_channels] -> one out block of packed: [in block][re lanes, im lanes][2 * lanes].
  void (*pack_weights)(const float* weight, const float* scale, int64_t in_channels,
                       int64_t out_channels, int64_t out_block, float* packed);
};

inline int64_t row_scratch(int64_t width, int64_t lanes, int64_t largest_radix) {
  return (2 * width + largest_radix) * 2 * lanes;
}

inline int64_t column_scratch(const Column& column, int64_t lanes) {
  return ((column.in_blocks + column.out_blocks + 1) * column.height + column.down->largest_radix) *
         2 * lanes;
}

const FourierKernels& fourier_kernels_baseline();
#ifdef REVISAGE_X86
const FourierKernels& fourier_kernels_avx2();
const FourierKernels& fourier_kernels_avx512();
#endif

}  // namespace revisage
