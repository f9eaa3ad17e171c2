// The hot loops of the warp, compiled once per instruction set (flow_warp_<isa>.cc) and chosen at
// run time. The files that implement this interface include no standard C++ header, so that no
// inline function of the library is compiled with instructions a machine may lack.
#pragma once

#include <stdint.h>

namespace revisage {

// Where a column or row of the output lies in a flow of lower resolution.
struct FlowPosition {
  int32_t first, second;
  float fraction;  // of the way to `second`
};

// One image of a call; sides are below 2^24.
struct WarpImage {
  const void* image;
  void* out;
  int64_t channels;
  int64_t height, width;  // of image
  int64_t rows, columns;  // of out
  bool interleaved;       // HWC; else CHW
  bool zero, reflect;     // padding; else border
  const float* flow;      // [flow rows, flow columns, 2], or null: matrix
  int64_t flow_columns;
  const FlowPosition* across;  // [columns] where the flow is smaller than out, else null
  const FlowPosition* down;    // [rows]
  double matrix[6];            // u = m0 * x + (m1 * y + m2), v = m3 * x + (m4 * y + m5)
};

// Scratch memory, in floats, that a thread needs where the flow is smaller than out.
inline int64_t warp_scratch(int64_t columns) { return 4 * (columns + 16); }

// Writes rows begin..end-1 of out.
using WarpRows = void (*)(const WarpImage& image, int64_t begin, int64_t end, float* scratch);

struct WarpKernels {
  WarpRows u8, u16, f16, f32;
};

const WarpKernels& warp_kernels_baseline();
#ifdef REVISAGE_X86
const WarpKernels& warp_kernels_avx2();
const WarpKernels& warp_kernels_avx512();
#endif

}  // namespace revisage
