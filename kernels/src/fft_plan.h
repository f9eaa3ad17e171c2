// Plans (factors and twiddles) of the FFT lengths in use.
#pragma once

#include <memory>
#include <vector>

#include "fft_conv_kernels.h"

namespace revisage {

struct OwnedFftPlan {
  FftPlan plan;
  std::vector<float> tables;  // what the plan points into
};

// Thread-safe; a few dozen plans are kept for the next call.
std::shared_ptr<const OwnedFftPlan> fft_plan(int length);

}  // namespace revisage
