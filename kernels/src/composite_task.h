// A checked call of the compositor, as the CPU and CUDA versions receive it.
#pragma once

#include "revisage/composite.h"
#include "samples.h"

namespace revisage {

struct CompositeTask {
  void* out;
  const void* original;  // may be out
  DType dtype;
  std::int64_t height, width, channels;  // of the photo
  const float* delta;                    // [rows, columns, delta_channels]
  const float* mask;                     // [rows, columns]
  std::int64_t rows, columns, delta_channels;
  Affine matrix;
  float strength;
  // Photo pixels that the square's bilinear taps can reach, half open.
  std::int64_t x0, y0, x1, y1;
};

void composite_cpu(const CompositeTask& task, int threads);
void composite_cuda(const CompositeTask& task, std::uintptr_t stream);

// The last step of Note [Compositing arithmetic]; a change of 0 or NaN keeps the sample's bits.
template <typename Sample>
REVISAGE_HOST_DEVICE inline void apply_change(const Sample& before, Sample& after, float change) {
  if (change < 0.0f || change > 0.0f) {
    const float scaled = change * SampleTraits<Sample>::full_range;  // times 1 is exact
    after = SampleTraits<Sample>::store(SampleTraits<Sample>::load(before) + scaled);
  }
}

}  // namespace revisage
