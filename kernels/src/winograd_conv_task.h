// A checked call of the convolution, as the CPU version receives it.
#pragma once

#include "revisage/winograd_conv.h"

namespace revisage {

struct WinogradConvTask {
  float* out;             // [batch, out_channels, rows, columns]
  const float* x;         // [batch, in_channels, height, width]
  const float* weight;    // [out_channels, in_channels, 3, 3]
  const float* bias;      // [out_channels], or null
  const float* residual;  // as out, or null
  const float* skip;      // as out, or null
  std::int64_t batch, in_channels, out_channels, height, width;
  Surroundings surroundings;
  Activation activation;

  std::int64_t rows() const { return height - (surroundings == Surroundings::none ? 2 : 0); }
  std::int64_t columns() const { return width - (surroundings == Surroundings::none ? 2 : 0); }
};

// Checks shapes, and everything else of a task that does not depend on a pointer.
// ShapeError, OptionError.
void check_winograd_conv(const Array& x, const Array& weight, Surroundings surroundings,
                         const Activation& activation);

void winograd_conv_cpu(const WinogradConvTask& task, int threads);

}  // namespace revisage
