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

// The same with samples of a network's dtypes: x and out float32, float16 or bfloat16, the others
// float32 or as x.
struct FftConvCudaTask {
  void* out;
  const void *x, *weight, *scale, *shift;
  DType dtype, weight_dtype, scale_dtype, shift_dtype;
  std::int64_t batch, in_channels, out_channels, height, width;
};

void fft_conv_cpu(const FftConvTask& task, int threads);
void fft_conv_cuda(const FftConvCudaTask& task, void* workspace, std::uintptr_t stream);
// Of the workspace; depends on the device of x.
std::size_t fft_conv_cuda_workspace_bytes(const FftConvCudaTask& task);

}  // namespace revisage
