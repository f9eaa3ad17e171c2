// The hot loops of the compositor, compiled once per instruction set (composite_<isa>.cc) and
// chosen at run time, as those of fft_conv (see fft_conv_kernels.h). All of them compute the bits
// of Note [Compositing arithmetic] in kernels/composite.py.
#pragma once

#include <stdint.h>

namespace revisage {

// Channels of the delta that are edited in one go: with the mask they are one vector of four.
constexpr int kEditChannels = 3;

// The mask and up to kEditChannels of the delta, with one ring of zeros (so that no tap needs a
// bounds check) and as much after each row as a vector may read too far.
struct PackedEdit {
  const float* pixels;
  int64_t stride;  // pixels from one row to the next, 2 + kLanes more than columns or more
  int64_t rows, columns;
  int used;     // channels of delta
  bool planar;  // [rows + 2][1 + used][stride], mask first; or [rows + 2][stride][4], mask last
  float strength;
};

// Pixels of one row of the photo, edited in place.
struct EditedRow {
  void* samples;  // the first edited channel of the row's pixel 0
  int64_t channels;
  int vector_channels;  // channels if whole pixels may be read and written back, else 0
  int64_t begin, end;   // the pixels whose u and v lie inside (-1, columns) and (-1, rows)
  double a, u0, d, v0;  // u = a * x + u0, v = d * x + v0
};

using EditRow = void (*)(const PackedEdit& edit, const EditedRow& row);

struct CompositeKernels {
  EditRow u8, u16, f16, f32;
  // Pixels that a planar edit takes at a time, all of whose taps lie within as many columns; 0
  // where edits are never planar.
  int lanes;
};

const CompositeKernels& composite_kernels_baseline();
#ifdef REVISAGE_X86
const CompositeKernels& composite_kernels_avx2();
const CompositeKernels& composite_kernels_avx512();
#endif

}  // namespace revisage
