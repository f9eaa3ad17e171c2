// A checked call of the Fourier unit, as the CPU and CUDA versions receive it.
#pragma once

#include "revisage/fft_conv.h"

namespace revisage {

struct FftConvTask {
  float* out;           // [batch, out_channels, height, width]
  const float* x;       // [batch, in_channels, height, width]
  const float* weight;  // [2 * out_channels, 2 * in_channels], interleaved (re, im)
  const float* scale;   // [2 * out_channels]
  const float* shift;   // [2 * out_channels]
  std::int64_t batch, in_channels, out_channels, height, width;
};

void fft_conv_cpu(const FftConvTask& task, int threads);
void fft_conv_cuda(const FftConvTask& task, std::uintptr_t stream);

}  // namespace revisage
