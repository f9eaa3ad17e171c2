// What flow_warp_loops.h and the vector code of an instruction set exchange.
#pragma once

#include <stdint.h>

namespace revisage {

// Which 2 x 2 neighbourhoods, with what is read past them, lie inside the image: column < columns,
// row < rows and offset < offsets, for the top left pixel.
struct Interior {
  uint32_t columns, rows, offsets;
  uint32_t row_samples;
};

// A group of pixels, each with its 2 x 2 neighbourhood somewhere in an image.
template <typename Sample>
struct Group {
  const Sample* image;
  int64_t row_samples;     // from one row of the image to the next
  const uint32_t* offset;  // in samples, of the top left pixel
  const float *fx, *fy;
};

}  // namespace revisage
