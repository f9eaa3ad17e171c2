// The hot loops of the Winograd convolution, compiled once per instruction set
// (winograd_conv_<isa>.cc) and chosen at run time. The files that implement this interface include
// no standard C++ header: see fft_conv_kernels.h.
//
// Note [Winograd convolution]
//     F(4x4, 3x3) of Lavin & Gray: a tile of 4x4 results needs 6x6 pixels d, and is
//         A^T [ (G g G^T) * (B^T d B) ] A,
//     36 products instead of 144, for each pair of channels. Summed over the input channels before
//     the outer transform, the products of one of the 36 places are a matrix product
//         [out channels, in channels] x [in channels, tiles].
//     The matrices come from the points 0, +-5/8, +-3/2 and infinity of Toom-Cook's interpolation.
//     Of the pairs +-a, +-b in eighths, these have the smallest mean error (1.8 times that of the
//     sum of 9 products in float32; 3.7 times with the usual 1 and 2), and all entries of A and B
//     are exact in float32. G is applied once, in double.
//
// Note [Lanes are tiles]
//     Tiles are numbered through all images, rows and columns; a vector holds as many as it has
//     lanes. So both transforms are plain vector arithmetic, pictures stay NCHW, and nothing is
//     wasted where a row of tiles is no whole number of vectors: a vector then consists of pieces,
//     runs of tiles in one row. The four columns of its results are four vectors to interleave.
//
//     A unit is kUnitVectors vectors (or one where the channels are many): for all input channels
//     it is transformed into L2, then for every block of output channels multiplied by the weights,
//     at each of the 36 places with the tile of sums in registers, and transformed back.
#pragma once

#include <stdint.h>

namespace revisage {

constexpr int kWinogradPlaces = 36;
constexpr int kUnitVectors = 2;

struct WinogradCall {
  float* out;
  const float* x;
  const float* weights;                 // see pack_weights
  const float *bias, *residual, *skip;  // or null
  int64_t batch, in_channels, out_channels;
  int64_t height, width;             // of x
  int64_t rows, columns;             // of out
  int64_t tiles_down, tiles_across;  // of an image
  int64_t origin;                    // where in x, down and across, the first result lies: 0 or 1
  bool reflection;
  float slope, ceiling;  // out = min(v < 0 ? slope * v : v, ceiling), plus skip
};

// Output channels [first, last) of the blocks of weights.
struct WinogradBlock {
  int64_t first, last;
};

struct WinogradKernels {
  int lanes;
  int rows;  // the most output channels of a block

  // The results of `vectors` (1 or 2) vectors of tiles from tile `first` on, for the blocks
  // [first_block, last_block) of output channels. scratch: winograd_scratch() floats, aligned to a
  // cache line.
  void (*compute)(const WinogradCall& call, int64_t first, int vectors, int64_t first_block,
                  int64_t last_block, float* scratch);

  // weight [out_channels][in_channels][3][3] -> those of one block of output channels:
  // [place][in channel][channel of the block].
  void (*pack_weights)(const float* weight, int64_t in_channels, WinogradBlock block,
                       float* packed);
};

// Blocks of nearly equal size.
inline int64_t winograd_blocks(int64_t out_channels, int64_t rows) {
  return (out_channels + rows - 1) / rows;
}
inline WinogradBlock winograd_block(int64_t out_channels, int64_t blocks, int64_t index) {
  return {out_channels * index / blocks, out_channels * (index + 1) / blocks};
}

// Floats from one place to the next of a transformed unit: a line more than needed, because powers
// of two would put all 36 into the same few cache sets.
inline int64_t winograd_place_stride(int64_t in_channels, int vectors, int64_t lanes) {
  return in_channels * vectors * lanes + 16;
}

inline int64_t winograd_scratch(int64_t in_channels, int vectors, int64_t lanes, int64_t rows) {
  return kWinogradPlaces *
         (winograd_place_stride(in_channels, vectors, lanes) + rows * vectors * lanes);
}

const WinogradKernels& winograd_kernels_baseline();
#ifdef REVISAGE_X86
const WinogradKernels& winograd_kernels_avx2();
const WinogradKernels& winograd_kernels_avx512();
#endif

}  // namespace revisage
