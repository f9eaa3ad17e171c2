// Weights of the Winograd convolution, transformed, in the order that the hot loops read.
#pragma once

#include "threads.h"
#include "winograd_conv_kernels.h"
#include "winograd_conv_task.h"
#include "workspace.h"

namespace revisage {

// Packed once for many calls, for the instruction set that is current when it is made. Keeps its
// memory in `workspace`, which must outlive it and serve nothing else; reads nothing of `task` but
// weight and the channels.
class WinogradConvWeights {
 public:
  WinogradConvWeights(const WinogradConvTask& task, Executor& executor, Workspace& workspace);

  const WinogradKernels& kernels() const { return kernels_; }
  std::int64_t blocks() const { return blocks_; }
  const float* data() const { return data_; }

 private:
  const WinogradKernels& kernels_;
  std::int64_t blocks_;  // of output channels
  float* data_;          // [block][place][in channel][channel of the block]
};

// winograd_conv with packed weights; task.weight is not read.
void winograd_conv_cpu(const WinogradConvTask& task, const WinogradConvWeights& weights,
                       Executor& executor);

}  // namespace revisage
