// Weights of the Fourier unit in the order that the CPU's hot loops read.
#pragma once

#include "fft_conv_kernels.h"
#include "fft_conv_task.h"
#include "threads.h"
#include "workspace.h"

namespace revisage {

// Packed once for many calls, for the instruction set that is current when it is made. Keeps its
// memory in `workspace`, which must outlive it and serve nothing else; reads nothing of `task` but
// weight, scale, and the channels.
class FftConvWeights {
 public:
  FftConvWeights(const FftConvTask& task, Executor& executor, Workspace& workspace);

  const FourierKernels& kernels() const { return kernels_; }
  std::int64_t in_blocks() const { return in_blocks_; }
  std::int64_t out_blocks() const { return out_blocks_; }
  const float* data() const { return data_; }

 private:
  const FourierKernels& kernels_;
  std::int64_t in_blocks_, out_blocks_;
  float* data_;  // [out block][in block][re, im of the lanes][2 * lanes]
};

// fft_conv with packed weights; task.weight and task.scale are not read.
void fft_conv_cpu(const FftConvTask& task, const FftConvWeights& weights, Executor& executor);

}  // namespace revisage
